package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoLabels reports that a file system has no SELinux labels: SELinux is off
// here, or the file system cannot hold them.
var ErrNoLabels = errors.New("no SELinux labels here")

// selinuxAttribute is where Linux keeps a file's SELinux label, see xattr(7).
const selinuxAttribute = "security.selinux"

// SetLabel gives the directory and everything below it an SELinux label, as
// system_u:object_r:container_ro_file_t:s0, and returns how many files had another
// one. What is made below it later inherits the label's type. It needs a process
// that the policy lets relabel files, and that owns them. What vanishes meanwhile
// is passed over.
func SetLabel(dir, label string) (int, error) {
	if _, err := readLabel(dir); err != nil {
		return 0, fmt.Errorf("read the SELinux label of %s: %w", dir, err)
	}
	changed := 0
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = relabel(path, label, &changed)
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil
		}
		return err
	})
	if err != nil {
		return changed, fmt.Errorf("label %s as %s: %w", dir, label, err)
	}
	return changed, nil
}

// HasLabel reports whether the directory and what is directly in it have an SELinux label: a look that may be taken often.
// What is deeper inherits it, unless a folder was moved in. It fails with ErrNoLabels as SetLabel does.
func HasLabel(dir, label string) (bool, error) {
	has, err := readLabel(dir)
	if err != nil {
		return false, fmt.Errorf("read the SELinux label of %s: %w", dir, err)
	}
	if has != label {
		return false, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("read the SELinux labels in %s: %w", dir, err)
	}
	for _, e := range entries {
		has, err := readLabel(filepath.Join(dir, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil && !errors.Is(err, ErrNoLabels):
			return false, fmt.Errorf("read the SELinux labels in %s: %w", dir, err)
		case has != label:
			return false, nil
		}
	}
	return true, nil
}

func relabel(path, label string, changed *int) error {
	has, err := readLabel(path)
	if err != nil && !errors.Is(err, ErrNoLabels) {
		return err
	}
	if has == label {
		return nil
	}
	if err := unix.Lsetxattr(path, selinuxAttribute, []byte(label+"\x00"), 0); err != nil {
		return &fs.PathError{Op: "setxattr", Path: path, Err: err}
	}
	*changed++
	return nil
}

// readLabel gives a file's label, of a link its own.
func readLabel(path string) (string, error) {
	// The kernel's bound of a label is a page.
	value := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, selinuxAttribute, value)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return "", ErrNoLabels
	}
	if err != nil {
		return "", &fs.PathError{Op: "getxattr", Path: path, Err: err}
	}
	return strings.TrimRight(string(value[:n]), "\x00"), nil
}
