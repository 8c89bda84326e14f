package store

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountTable is where the kernel lists this process's mounts. Reading it touches
// none of their file systems. Its lines are
// ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE OPTIONS.
const mountTable = "/proc/self/mountinfo"

// Mount is a mounted file system, as /proc/self/mountinfo names it.
type Mount struct {
	// Type is the kernel's name of the file system ("ext4", "nfs4", "fuse.sshfs").
	Type string
	// Source is what is mounted ("/dev/sda1", "10.9.0.1:/models"); it may be empty.
	Source string
	// Point is the directory where it is mounted.
	Point string
}

// String names the mount for people: "nfs4 10.9.0.1:/models, mounted at /mnt".
func (m Mount) String() string {
	what := m.Type
	if m.Source != "" && m.Source != m.Type && m.Source != "none" {
		what += " " + m.Source
	}
	return what + ", mounted at " + m.Point
}

// MountAbove returns the mount on which a clean absolute path lies, judged by its
// name alone: nothing of the path is touched, so symlinks are not followed and a
// server that does not answer delays nothing. Without /proc, Type is "unknown"
// and Point is the path.
func MountAbove(path string) Mount {
	if table, err := os.ReadFile(mountTable); err == nil {
		if m, ok := mountInTable(string(table), path); ok {
			return m
		}
	}
	return Mount{Type: "unknown", Point: path}
}

// mountInTable finds the mount with the longest point above path; of several at
// one point, the last hides the others.
func mountInTable(table, path string) (found Mount, ok bool) {
	for line := range strings.Lines(table) {
		_, m, isMount := parseMount(line)
		above := m.Point == "/" || path == m.Point || strings.HasPrefix(path, m.Point+"/")
		if isMount && above && len(m.Point) >= len(found.Point) {
			found, ok = m, true
		}
	}
	return found, ok
}

// mountOf names the file system that dir is on and where it is mounted, for
// people. Without /proc it is the number of the type, and dir.
func mountOf(dir string) Mount {
	if m, ok := mountHolding(dir); ok {
		return m
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Mount{Type: "a file system that cannot be named", Point: dir}
	}
	return Mount{Type: fmt.Sprintf("a file system of type %#x", st.Type), Point: dir}
}

// mountHolding asks the kernel on which mount dir is, following symlinks.
func mountHolding(dir string) (Mount, bool) {
	table, err := os.ReadFile(mountTable)
	if err != nil {
		return Mount{}, false
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return Mount{}, false
	}
	return findMount(string(table), st.Mnt_id)
}

// findMount looks up a mount by its number in the text of a mount table.
func findMount(table string, id uint64) (Mount, bool) {
	for line := range strings.Lines(table) {
		if number, m, ok := parseMount(line); ok && number == strconv.FormatUint(id, 10) {
			return m, true
		}
	}
	return Mount{}, false
}

// parseMount reads one line of a mount table.
func parseMount(line string) (number string, m Mount, ok bool) {
	place, what, found := strings.Cut(line, " - ")
	fields, kind := strings.Fields(place), strings.Fields(what)
	if !found || len(fields) < 5 || len(kind) == 0 {
		return "", Mount{}, false
	}
	m = Mount{Type: kind[0], Point: unescapeMount(fields[4])}
	// An empty source is two spaces: the options then come second.
	if len(kind) > 1 && !strings.HasPrefix(what, kind[0]+"  ") {
		m.Source = unescapeMount(kind[1])
	}
	return fields[0], m, true
}

// unescapeMount undoes the octal escapes of space, tab, newline, backslash and #.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}
