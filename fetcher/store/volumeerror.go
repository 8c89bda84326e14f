package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// RefusedError is a file system that refuses what this user does in a store. Its
// text is a whole sentence with what to do.
type RefusedError struct {
	text string
	err  error
}

// Error implements error.
func (r *RefusedError) Error() string { return r.text }

// Unwrap returns the operating system's error.
func (r *RefusedError) Unwrap() error { return r.err }

// ExplainRefusal words an error by which the file system of the store at dir
// refuses what this user does there: EROFS, or EACCES and EPERM of a path of the
// store. The RefusedError names the file system, its source and its mount point,
// and what is known of the reason: a server that takes root for nobody, one whose
// export is read-only, a mount that is. Any other error is returned as it is, and
// so is damage (ErrCorrupt). It may ask the volume.
func ExplainRefusal(dir string, err error) error {
	var known *RefusedError
	if err == nil || errors.As(err, &known) || errors.Is(err, ErrCorrupt) {
		return err
	}
	dir, absErr := filepath.Abs(dir)
	if absErr != nil {
		return err
	}
	path, inStore := failedPath(dir, err)
	readOnly := errors.Is(err, unix.EROFS)
	if !inStore || !readOnly && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	path = nearest(path)
	m, ok := mountHolding(path)
	if !ok {
		m = MountAbove(path)
	}
	// NFS has access(2) answer EACCES for an export that is read-only as well; a
	// change tells the two apart, and the time of a directory matters to nobody.
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if !readOnly && isNFS(m) && errors.Is(unix.UtimesNanoAt(unix.AT_FDCWD, path, now, 0), unix.EROFS) { //nolint:forbidigo // a time says nothing
		readOnly = true
	}
	return &RefusedError{text: fmt.Sprintf("use store %s: %s, %s", dir, m, refusal(m, path, readOnly, err)), err: err}
}

// refusedWrites is why a store can only be read, as an ErrReadOnly.
func refusedWrites(dir string, err error) error {
	if errors.Is(err, ErrReadOnly) {
		return err
	}
	err = ExplainRefusal(dir, err)
	return &RefusedError{text: err.Error(), err: errors.Join(ErrReadOnly, err)}
}

func isNFS(m Mount) bool { return strings.HasPrefix(m.Type, "nfs") }

// refusal says how and why a mount refuses this user, and what to do.
func refusal(m Mount, path string, readOnly bool, err error) string {
	var st unix.Statfs_t
	mounted := !readOnly || unix.Statfs(path, &st) != nil || st.Flags&unix.ST_RDONLY == 0
	user := os.Geteuid()
	switch {
	case readOnly && !mounted:
		return "is mounted read-only; mount it writable, or choose another with --store"
	case readOnly && isNFS(m):
		return "is mounted writable, but its server exports it read-only; export it writable (rw), or choose another with --store"
	case readOnly:
		return "is mounted writable, but refuses every change as a read-only one does; make it writable where it comes from, or choose another with --store"
	case user == 0 && isNFS(m):
		return fmt.Sprintf("refuses root (%v): its server takes root for nobody (root_squash); export it with no_root_squash, or let the anonymous user own %s", cause(err), path)
	}
	who := fmt.Sprintf("uid %d", user)
	if user == 0 {
		who = "root"
	}
	if info, statErr := os.Stat(path); statErr == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			who += fmt.Sprintf(" (%v): %s belongs to uid %d and has mode %s", cause(err), path, owner.Uid, info.Mode())
		}
	}
	return "refuses " + who + "; let this user use it, or run as another"
}

// failedPath is the path that the operating system's error is about, if that is in
// the store at dir or on the way to it.
func failedPath(dir string, err error) (string, bool) {
	var path *fs.PathError
	var link *os.LinkError
	at := ""
	switch {
	case errors.As(err, &path):
		at = path.Path
		if path.Op != "open" { // what changes a name needs the folder
			at = folderOf(at)
		}
	case errors.As(err, &link):
		at = folderOf(link.New)
	case errors.Is(err, unix.EROFS):
		at = dir // a system call that tells no path
	}
	return at, at == dir || strings.HasPrefix(at, dir+"/") || at != "" && strings.HasPrefix(dir, strings.TrimSuffix(at, "/")+"/")
}

// folderOf is path if it is a directory, else the one above it.
func folderOf(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}

// nearest is the path, or the directory above it that is there.
func nearest(path string) string {
	for ; path != "/"; path = filepath.Dir(path) {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			break
		}
	}
	return path
}
