package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRefusal(t *testing.T) {
	nfs, dir := Mount{Type: "nfs4", Source: "10.9.0.1:/models", Point: "/mnt"}, t.TempDir()
	for want, c := range map[string]struct {
		mount    Mount
		readOnly bool
		err      error
	}{
		"is mounted writable, but its server exports it read-only; export it writable (rw)":     {nfs, true, unix.EROFS},
		"is mounted writable, but refuses every change as a read-only one does; make it writab": {Mount{Type: "ceph"}, true, unix.EROFS},
		dir + " belongs to uid": {Mount{Type: "ext4"}, false, unix.EACCES},
	} {
		if got := refusal(c.mount, dir, c.readOnly, c.err); !strings.Contains(got, want) {
			t.Errorf("it is %q, want %q", got, want)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a server says to root is not tested here")
	}
	want := "refuses root (permission denied): its server takes root for nobody (root_squash); export it with no_root_squash, or let the anonymous user own " + dir
	if got := refusal(nfs, dir, false, &fs.PathError{Op: "mkdir", Path: dir, Err: unix.EACCES}); got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
}

// Only errors of the store's own paths, and on the way to it, are the store's file
// system's.
func TestExplainRefusal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	for name, c := range map[string]struct {
		err     error
		refused bool
	}{
		"nothing":                    {nil, false},
		"a file of the store":        {&fs.PathError{Op: "open", Path: dir + "/agent/x", Err: unix.EACCES}, true},
		"deep in a chain":            {fmt.Errorf("a: %w", errors.Join(errors.New("b"), &fs.PathError{Op: "open", Path: dir + "/x", Err: unix.EPERM})), true},
		"a folder above it":          {&fs.PathError{Op: "mkdir", Path: filepath.Dir(dir), Err: unix.EROFS}, true},
		"a rename":                   {&os.LinkError{Op: "rename", Old: dir + "/x", New: dir + "/y", Err: unix.EROFS}, true},
		"a folder beside it":         {&fs.PathError{Op: "open", Path: dir + "-2/x", Err: unix.EACCES}, false},
		"another one":                {&fs.PathError{Op: "open", Path: "/source/x", Err: unix.EACCES}, false},
		"another reason":             {&fs.PathError{Op: "open", Path: dir + "/x", Err: unix.EIO}, false},
		"what nobody may read":       {fmt.Errorf("%w: %w", &fs.PathError{Op: "open", Path: dir + "/x", Err: unix.EACCES}, ErrCorrupt), false},
		"a system call with no name": {unix.EROFS, true},
	} {
		got := ExplainRefusal(dir, c.err)
		var refused *RefusedError
		if errors.As(got, &refused) != c.refused || !errors.Is(got, c.err) {
			t.Errorf("%s: %v", name, got)
		}
		if c.refused && !strings.HasPrefix(got.Error(), "use store "+dir+": ") || strings.Contains(fmt.Sprint(got), "\n") && c.refused {
			t.Errorf("%s: %v", name, got)
		}
		if again := ExplainRefusal(dir, got); again != got { //nolint:errorlint // the very same
			t.Errorf("%s: explained again it is %v", name, again)
		}
	}
}
