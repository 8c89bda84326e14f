package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/store"
)

const (
	podsRead = "system_u:object_r:container_ro_file_t:s0"
	varLib   = "system_u:object_r:var_lib_t:s0"
)

// labelled sets a label as a kernel without SELinux lets root do.
func labelled(t *testing.T, path, label string) {
	t.Helper()
	err := unix.Lsetxattr(path, "security.selinux", []byte(label+"\x00"), 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EACCES) {
		t.Skipf("this user cannot label files here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func labelOf(t *testing.T, path string) string {
	t.Helper()
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", value)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return string(value[:n])
}

// Whatever is in a store, links included, gets the label once.
func TestSetLabel(t *testing.T) {
	dir := t.TempDir()
	blob, link := filepath.Join(dir, "blobs", "a"), filepath.Join(dir, "models", "current")
	for _, parent := range []string{filepath.Dir(blob), filepath.Dir(link)} {
		if err := os.Mkdir(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(blob, []byte("content"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	labelled(t, dir, varLib)
	labelled(t, filepath.Dir(blob), podsRead)
	labelled(t, blob, varLib)
	for run, want := range []int{4, 0} {
		changed, err := store.SetLabel(dir, podsRead)
		if err != nil || changed != want {
			t.Errorf("run %d changed %d labels, want %d: %v", run, changed, want, err)
		}
	}
	for _, path := range []string{dir, filepath.Dir(blob), blob, filepath.Dir(link), link} {
		if got := labelOf(t, path); got != podsRead+"\x00" {
			t.Errorf("%s is labelled %q", path, got)
		}
	}
}

// Whether a store has the label shows at its folders.
func TestHasLabel(t *testing.T) {
	dir := t.TempDir()
	labelled(t, dir, podsRead)
	has := func(want bool) {
		t.Helper()
		if got, err := store.HasLabel(dir, podsRead); got != want || err != nil {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	has(true)
	for _, name := range []string{"models", "hub"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		labelled(t, filepath.Join(dir, name), varLib)
		has(false)
		labelled(t, filepath.Join(dir, name), podsRead)
		has(true)
	}
	labelled(t, dir, varLib)
	has(false)
	if _, err := store.HasLabel(filepath.Join(dir, "missing"), podsRead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

// A directory without a label is on a machine without SELinux.
func TestSetLabelWithoutLabels(t *testing.T) {
	dir := t.TempDir()
	if _, err := unix.Lgetxattr(dir, "security.selinux", nil); err == nil {
		t.Skip("SELinux labels files here")
	}
	if _, err := store.SetLabel(dir, podsRead); !errors.Is(err, store.ErrNoLabels) {
		t.Errorf("got %v, want ErrNoLabels", err)
	}
	if _, err := store.SetLabel(filepath.Join(dir, "missing"), podsRead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}
