package smallfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/smallfile"
)

func anybody(uint32) bool { return true }

func nobody(uint32) bool { return false }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	const limit = 8
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("content"), 0o600))
	for name, c := range map[string]struct {
		make         func(path string) error
		want, reason string // follows links
		owned        string // reason of ReadOwned, where that differs
	}{
		"a file":          {make: func(path string) error { return os.WriteFile(path, []byte("content"), 0o600) }, want: "content"},
		"an empty file":   {make: func(path string) error { return os.WriteFile(path, nil, 0o600) }},
		"the limit":       {make: func(path string) error { return os.WriteFile(path, []byte("12345678"), 0o600) }, want: "12345678"},
		"above the limit": {make: func(path string) error { return os.WriteFile(path, []byte("123456789"), 0o600) }, reason: "has 9 bytes, and at most 8 are read"},
		"three TiB":       {make: func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 3<<40)) }, reason: "has 3298534883328 bytes"},
		"a link":          {make: func(path string) error { return os.Symlink(file, path) }, want: "content", owned: "is a symlink"},
		"a link to a pipe": {make: func(path string) error {
			return errors.Join(syscall.Mkfifo(path+"-pipe", 0o600), os.Symlink(path+"-pipe", path))
		}, reason: "is a pipe", owned: "is a symlink"},
		"/dev/zero": {make: func(path string) error { return os.Symlink("/dev/zero", path) }, reason: "is a device", owned: "is a symlink"},
		"a pipe":    {make: func(path string) error { return syscall.Mkfifo(path, 0o600) }, reason: "is a pipe"},
		"a socket":  {make: func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }, reason: "is no regular file"},
		"a folder":  {make: func(path string) error { return os.Mkdir(path, 0o700) }, reason: "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			must(t, c.make(path))
			data, err := smallfile.Read(path, limit)
			check(t, path, data, err, c.want, c.reason)
			data, err = smallfile.ReadOwned(path, limit, os.OpenFile, anybody)
			if c.owned != "" {
				c.want, c.reason = "", c.owned
			}
			check(t, path, data, err, c.want, c.reason)
			if f, err := smallfile.Open(path); err == nil {
				must(t, f.Close())
			} else if !errors.Is(err, smallfile.ErrUnusable) {
				t.Errorf("open: %v", err)
			}
		})
	}
	for _, read := range []func(string) ([]byte, error){
		func(path string) ([]byte, error) { return smallfile.Read(path, limit) },
		func(path string) ([]byte, error) { return smallfile.ReadOwned(path, limit, os.OpenFile, anybody) },
	} {
		if _, err := read(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("nothing there: %v", err)
		}
	}
	if _, err := smallfile.ReadOwned(file, limit, os.OpenFile, nobody); !errors.Is(err, smallfile.ErrUnusable) || !strings.Contains(err.Error(), "belongs to uid") {
		t.Errorf("another's file: %v", err)
	}
}

func check(t *testing.T, path string, data []byte, err error, want, reason string) {
	t.Helper()
	if reason == "" {
		if err != nil || string(data) != want {
			t.Errorf("read %q, %v, want %q", data, err, want)
		}
		return
	}
	if !errors.Is(err, smallfile.ErrUnusable) || !strings.Contains(err.Error(), path+" "+reason) {
		t.Errorf("error is %v, want one with %q", err, reason)
	}
}

// A file that grows while it is read ends at the limit.
func TestReadWhatGrows(t *testing.T) {
	data, err := smallfile.Read("/proc/self/maps", 100) // it has the size 0
	if !errors.Is(err, smallfile.ErrUnusable) || !strings.Contains(err.Error(), "more than 100 bytes") {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
}

func TestDirFS(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	fsys := smallfile.DirFS(dir, os.OpenFile)
	for _, name := range []string{"file", "link"} {
		if got, err := fs.ReadFile(fsys, name); err != nil || string(got) != "content" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"pipe", "../file", "/file"} {
		if _, err := fs.ReadFile(fsys, name); !errors.Is(err, smallfile.ErrUnusable) && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := fsys.Open("missing"); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), dir) {
		t.Errorf("missing: %v", err)
	}
	if entries, err := fs.ReadDir(fsys, "."); err != nil || len(entries) != 3 {
		t.Errorf("listed %v, %v", entries, err)
	}
}
