package store

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOf names the file system that dir is on and where it is mounted, for
// people. Without /proc it is the number of the type, and dir.
func mountOf(dir string) (fsType, mount string) {
	if table, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
			if fsType, mount, ok := findMount(string(table), st.Mnt_id); ok {
				return fsType, mount
			}
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "a file system that cannot be named", dir
	}
	return fmt.Sprintf("a file system of type %#x", st.Type), dir
}

// findMount looks up a mount in the text of /proc/PID/mountinfo, whose lines are
// ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE OPTIONS.
func findMount(table string, id uint64) (fsType, mount string, ok bool) {
	for line := range strings.Lines(table) {
		place, what, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(place), strings.Fields(what)
		if !found || len(fields) < 5 || len(kind) == 0 || fields[0] != strconv.FormatUint(id, 10) {
			continue
		}
		return kind[0], unescapeMount(fields[4]), true
	}
	return "", "", false
}

// unescapeMount undoes the octal escapes of space, tab, newline and backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
