package gpu

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// meminfo are the values of a file in the form of /proc/meminfo, in bytes.
type meminfo map[string]uint64

// readMeminfo reads /proc/meminfo, or the file of the same form that a NUMA node
// has ("Node 1 MemFree:  123 kB"). Both are a few KiB.
func readMeminfo(path string) (meminfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing is written
	m := meminfo{}
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		key, rest, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			continue
		}
		fields, words := strings.Fields(rest), strings.Fields(key)
		if len(fields) == 0 || len(words) == 0 {
			continue
		}
		n, err := strconv.ParseUint(fields[0], 10, 54) // so that n KiB do not overflow
		if err != nil {
			continue // Linux has no such line
		}
		if len(fields) > 1 && fields[1] == "kB" {
			n *= 1024
		}
		m[words[len(words)-1]] = n
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

// hostMemory is the memory of the machine whose files are under root: all of it,
// and what could be allocated without swapping, page cache given back.
func hostMemory(root string) (total, available uint64, err error) {
	path := filepath.Join(root, "proc", "meminfo")
	m, err := readMeminfo(path)
	if err != nil {
		return 0, 0, err
	}
	total, known := m["MemTotal"]
	available, knownAvailable := m["MemAvailable"] // since Linux 3.14
	if !known || !knownAvailable || total == 0 {
		return 0, 0, fmt.Errorf("%s has no MemTotal and MemAvailable", path)
	}
	return total, min(available, total), nil
}

// nodeCache is what of a NUMA node's memory is page cache and other memory that
// the kernel gives back when it is needed; 0 where that is not known.
func nodeCache(root string, node int) uint64 {
	m, err := readMeminfo(filepath.Join(root, "sys", "devices", "system", "node", "node"+strconv.Itoa(node), "meminfo"))
	if err != nil {
		return 0
	}
	return m["FilePages"] - min(m["Shmem"], m["FilePages"]) + m["SReclaimable"]
}
