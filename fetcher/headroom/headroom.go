// Package headroom tells how much memory the page cache of this process may take:
// what the machine has and has left, and what its cgroups allow.
//
// The kernel charges a page of a file to the cgroup of whoever brings it in, by
// writing or by reading, and takes pages away again where that cgroup reaches its
// limit, whatever the machine has left. Pages that another cgroup was charged for
// stay that one's, whoever reads them.
//
// Limits are not found in a hierarchy of version 2 that was mounted outside of the
// process's cgroup namespace, such as a hostPath of /sys/fs/cgroup: no path there is
// known to be the process's cgroup.
//
// It is not for: what one process holds of its own, or deciding who gets what.
package headroom

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// None is the limit where there is none.
const None int64 = math.MaxInt64

// State is what the kernel says of memory, in bytes.
type State struct {
	// Total is the machine's.
	Total int64
	// Available could be taken without swapping: what is free, and page cache that
	// could go.
	Available int64
	// Limit is the least of the limits of the cgroups that this process is in and
	// can see; None without one.
	Limit int64
}

// Most is how much memory the page cache of this process may take at most; None
// where nothing tells.
func (s State) Most() int64 {
	if s.Total <= 0 {
		return s.Limit
	}
	return min(s.Total, s.Limit)
}

// Read asks the kernel. With an error, what could not be told is 0, and the limit
// None.
func Read() (State, error) { return read("/") }

func read(root string) (State, error) {
	s := State{Limit: None}
	text, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err == nil {
		s.Total, s.Available = field(string(text), "MemTotal"), field(string(text), "MemAvailable")
		if s.Total == 0 || s.Available == 0 {
			err = errors.New("/proc/meminfo has no MemTotal or MemAvailable")
		}
	}
	limit, limitErr := limitOf(root)
	s.Limit = limit
	if err = errors.Join(err, limitErr); err != nil {
		return s, fmt.Errorf("read how much memory there is: %w", err)
	}
	return s, nil
}

// field is a line of /proc/meminfo in bytes; 0 without one.
func field(meminfo, name string) int64 {
	for line := range strings.Lines(meminfo) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil && kib > 0 {
			return kib << 10
		}
	}
	return 0
}

// hierarchy is a mounted tree of cgroups that limits memory.
type hierarchy struct {
	dir   string   // the process's own cgroup
	top   string   // where the tree is mounted
	files []string // that hold limits
}

// limitOf is the least limit from the process's own cgroup up to the top of what
// is mounted here. A container sees its own cgroup as the top.
func limitOf(root string) (int64, error) {
	trees, err := hierarchies(root)
	if err != nil {
		return None, err
	}
	limit := None
	for _, h := range trees {
		for dir := h.dir; ; dir = filepath.Dir(dir) {
			for _, name := range h.files {
				n, err := readLimit(filepath.Join(dir, name))
				if err != nil {
					return None, err
				}
				limit = min(limit, n)
			}
			if dir == h.top || len(dir) <= len(h.top) {
				break
			}
		}
	}
	return limit, nil
}

// readLimit reads one limit; None where the file is not there, as at the root of
// all, or holds "max".
func readLimit(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return None, nil
	}
	if err != nil {
		return None, err
	}
	value := strings.TrimSpace(string(text))
	if value == "max" {
		return None, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return None, fmt.Errorf("%s holds %q, which is no size", file, value)
	}
	if n >= math.MaxInt64/2 { // what version 1 writes for none, less a page
		return None, nil
	}
	return n, nil
}

// hierarchies finds the process's cgroups that limit memory, of version 1 and 2.
func hierarchies(root string) ([]hierarchy, error) {
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without cgroups
	}
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, err
	}
	var out []hierarchy
	for line := range strings.Lines(string(mounts)) {
		before, after, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		h := hierarchy{top: filepath.Join(root, fields[4])}
		var mine string
		switch {
		case kind[0] == "cgroup2":
			h.files, mine = []string{"memory.max", "memory.high"}, cgroupPath(string(own), "")
		case kind[0] == "cgroup" && hasWord(kind[2], "memory"):
			h.files, mine = []string{"memory.limit_in_bytes"}, cgroupPath(string(own), "memory")
		default:
			continue
		}
		h.dir = filepath.Join(h.top, below(mine, fields[3]))
		out = append(out, h)
	}
	return out, nil
}

// cgroupPath is the path of the process's cgroup in the tree of a controller, as
// /proc/self/cgroup has it; "" is version 2's.
func cgroupPath(own, controller string) string {
	for line := range strings.Lines(own) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, dir, found := strings.Cut(rest, ":")
		if found && (controllers == controller || controller != "" && hasWord(controllers, controller)) {
			return dir
		}
	}
	return "/"
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// below is a cgroup's path within a mount of the part of the tree below mounted.
// One that is outside is not to be seen: what is mounted is the nearest.
func below(dir, mounted string) string {
	dir, mounted = path.Clean(dir), path.Clean(mounted)
	switch {
	case mounted == "/" && !strings.HasPrefix(dir, "/.."):
		return dir
	case dir == mounted:
		return "/"
	case strings.HasPrefix(dir, mounted+"/"):
		return strings.TrimPrefix(dir, mounted)
	}
	return "/"
}
