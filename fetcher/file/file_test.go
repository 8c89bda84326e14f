package file_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/file"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func source(dir string) fetcher.Source {
	return fetcher.Source{Scheme: fetcher.SchemeFile, Path: dir}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDriver(t *testing.T) {
	fetchertest.TestDriver(t, fixture)
}

func fixture(t *testing.T, files map[string][]byte) fetchertest.Fixture {
	t.Helper()
	dir := t.TempDir()
	for path, content := range files {
		write(t, filepath.Join(dir, path), content)
	}
	return fetchertest.Fixture{
		Driver:  file.New(),
		Source:  source(dir),
		Missing: []fetcher.Source{source(filepath.Join(dir, "no-such-folder")), source(filepath.Join(dir, "config.json"))},
		Change: func(t *testing.T, path string, content []byte) {
			t.Helper()
			write(t, filepath.Join(dir, path), content)
		},
		ChangedWhileReading: true,
	}
}

// What is no file is listed, for it is refused where it is chosen.
func TestListUnusable(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"a pipe":                   func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "odd"), 0o600) },
		"a symlink to a directory": func(dir string) error { return os.Symlink(dir, filepath.Join(dir, "odd")) },
		"no such file":             func(dir string) error { return os.Symlink("nowhere", filepath.Join(dir, "odd")) },
		"a socket":                 func(dir string) error { return unix.Mknod(filepath.Join(dir, "odd"), unix.S_IFSOCK|0o600, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "config.json"), []byte("{}"))
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			l, err := file.New().List(t.Context(), source(dir))
			if err != nil || len(l.Files) != 2 {
				t.Fatal(l, err)
			}
			err = l.Files[1].Unusable
			if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), "odd") || !strings.Contains(err.Error(), name) {
				t.Errorf("error is %v, want a refusal that names odd as %s", err, name)
			}
		})
	}
}

// A change that keeps the size shows in the modification time alone; a range that
// ends before the file does is not good either.
func TestReadChangedInPlace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.safetensors")
	write(t, path, make([]byte, 1<<16))
	d := file.New()
	l, err := d.List(t.Context(), source(dir))
	if err != nil {
		t.Fatal(err)
	}
	obj := fetcher.Object{Source: source(dir), Revision: l.Revision, File: l.Files[0]}
	other := time.Unix(0, 0)
	for _, length := range []int64{1<<16 - 10, 1 << 14, 1, 0} {
		body, err := d.Open(t.Context(), obj, 10, length)
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, other, other); err != nil {
			t.Fatal(err)
		}
		_, readErr := io.ReadAll(body)
		if !errors.Is(readErr, fetcher.ErrRefused) || !strings.Contains(readErr.Error(), "modified") {
			t.Errorf("reading %d bytes ends with %v, want a refusal that says modified", length, readErr)
		}
		_, openErr := d.Open(t.Context(), obj, 10, length)
		if !errors.Is(openErr, fetcher.ErrRefused) {
			t.Errorf("opening %d bytes ends with %v, want a refusal", length, openErr)
		}
		if err := body.Close(); !errors.Is(err, fetcher.ErrRefused) {
			t.Errorf("closing what was read of %d bytes ends with %v, want a refusal", length, err)
		}
		if err := os.Chtimes(path, before.ModTime(), before.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
}

// A pipe in the file's place must not hold Open.
func TestOpenWhatBecameAPipe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	write(t, path, []byte("{}"))
	d := file.New()
	l, err := d.List(t.Context(), source(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = d.Open(t.Context(), fetcher.Object{Source: source(dir), Revision: l.Revision, File: l.Files[0]}, 0, l.Files[0].Size)
	if !errors.Is(err, fetcher.ErrRefused) {
		t.Errorf("open ends with %v, want a refusal", err)
	}
}
