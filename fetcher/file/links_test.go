package file_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/file"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	secret = "root:$6$secret"
)

// readFile lists a directory and reads one file of it.
func readFile(ctx context.Context, d *file.Driver, dir, name string) (string, error) {
	l, err := d.List(ctx, source(dir))
	if err != nil {
		return "", err
	}
	for _, f := range l.Files {
		if f.Path != name {
			continue
		}
		if f.Unusable != nil {
			return "", f.Unusable
		}
		body, err := d.Open(ctx, fetcher.Object{Source: source(dir), Revision: l.Revision, File: f}, 0, f.Size)
		if err != nil {
			return "", err
		}
		got, err := io.ReadAll(body)
		return string(got), errors.Join(err, body.Close())
	}
	return "", errors.New("it is not listed")
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

// A link ends in the directory, in the blobs of its Hub repository, or where it was
// allowed to; what it leads to elsewhere is not read, whatever this user may read.
func TestLinks(t *testing.T) {
	for name, c := range map[string]struct {
		// prepare makes the file weights in dir, which is below base; base/outside has a secret.
		prepare func(t *testing.T, base, dir string)
		dir     string
		follow  string
		refused string // what the refusal says; empty: it is read
	}{
		"relative, in the directory": {prepare: func(t *testing.T, _, dir string) {
			write(t, filepath.Join(dir, "real"), []byte("weights"))
			link(t, "real", filepath.Join(dir, "weights"))
		}},
		"absolute, in the directory": {prepare: func(t *testing.T, _, dir string) {
			write(t, filepath.Join(dir, "sub/real"), []byte("weights"))
			link(t, filepath.Join(dir, "sub/real"), filepath.Join(dir, "weights"))
		}},
		"through another place, in the directory": {prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(dir, "real"), []byte("weights"))
			link(t, filepath.Join(dir, "real"), filepath.Join(base, "outside", "back"))
			link(t, "../outside/back", filepath.Join(dir, "weights"))
		}},
		"to a secret": {prepare: func(t *testing.T, _, dir string) { link(t, "../outside/token", filepath.Join(dir, "weights")) }, refused: `"weights" is a link to "BASE/outside/token"`},
		"to a secret, absolute": {prepare: func(t *testing.T, base, dir string) {
			link(t, filepath.Join(base, "outside/token"), filepath.Join(dir, "weights"))
		}, refused: `"weights" is a link to "BASE/outside/token"`},
		"to a link to a secret": {prepare: func(t *testing.T, _, dir string) {
			link(t, "../outside/token", filepath.Join(dir, "a"))
			link(t, "a", filepath.Join(dir, "weights"))
		}, refused: `is a link to "BASE/outside/token"`},
		"to a directory whose name begins the same": {prepare: func(t *testing.T, _, dir string) {
			write(t, dir+"-other/weights", []byte(secret))
			link(t, dir+"-other/weights", filepath.Join(dir, "weights"))
		}, refused: `is a link to "BASE/source-other/weights"`},
		"to a device":              {prepare: func(t *testing.T, _, dir string) { link(t, "/dev/zero", filepath.Join(dir, "weights")) }, refused: `is a link to "/dev/zero"`},
		"to a folder with secrets": {prepare: func(t *testing.T, _, dir string) { link(t, "../outside", filepath.Join(dir, "weights")) }, refused: `is a link to "BASE/outside"`},
		"to itself":                {prepare: func(t *testing.T, _, dir string) { link(t, "weights", filepath.Join(dir, "weights")) }, refused: "weights"},
		"allowed": {prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(base, "shared/blob"), []byte("weights"))
			link(t, "../shared/blob", filepath.Join(dir, "weights"))
		}, follow: "shared"},
		"allowed by a link": {prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(base, "shared/blob"), []byte("weights"))
			link(t, "shared", filepath.Join(base, "by-link"))
			link(t, "../shared/blob", filepath.Join(dir, "weights"))
		}, follow: "by-link"},
		"beside what is allowed": {prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(base, "shared/blob"), []byte("weights"))
			link(t, "../shared/../outside/token", filepath.Join(dir, "weights"))
		}, follow: "shared", refused: `is a link to "BASE/outside/token"`},
		"allowed, and leads on": {prepare: func(t *testing.T, base, dir string) {
			link(t, "../outside/token", filepath.Join(base, "shared/blob"))
			link(t, "../shared/blob", filepath.Join(dir, "weights"))
		}, follow: "shared", refused: `is a link to "BASE/outside/token"`},
		"a snapshot of the Hub": {dir: "models--org--tiny/snapshots/" + commit, prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(base, "models--org--tiny/blobs/abc"), []byte("weights"))
			link(t, "../../blobs/abc", filepath.Join(dir, "weights"))
		}},
		"a snapshot of another kind": {dir: "models--org--tiny/snapshots/main", prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(base, "models--org--tiny/blobs/abc"), []byte("weights"))
			link(t, "../../blobs/abc", filepath.Join(dir, "weights"))
		}, refused: `is a link to "BASE/models--org--tiny/blobs/abc"`},
		"a snapshot, to its repository": {dir: "models--org--tiny/snapshots/" + commit, prepare: func(t *testing.T, base, dir string) {
			write(t, filepath.Join(base, "models--org--tiny/blobs/abc"), nil)
			write(t, filepath.Join(base, "models--org--tiny/token"), []byte(secret))
			link(t, "../../token", filepath.Join(dir, "weights"))
		}, refused: `is a link to "BASE/models--org--tiny/token"`},
		"a snapshot whose blobs are a link": {dir: "models--org--tiny/snapshots/" + commit, prepare: func(t *testing.T, base, dir string) {
			link(t, "../outside", filepath.Join(base, "models--org--tiny/blobs"))
			link(t, "../../blobs/token", filepath.Join(dir, "weights"))
		}, refused: `is a link to "BASE/outside/token"`},
	} {
		t.Run(name, func(t *testing.T) {
			base, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(base, "outside/token"), []byte(secret))
			if c.dir == "" {
				c.dir = "source"
			}
			dir := filepath.Join(base, c.dir)
			write(t, filepath.Join(dir, "config.json"), []byte("{}"))
			c.prepare(t, base, dir)
			d := file.New()
			if c.follow != "" {
				d = file.New(filepath.Join(base, c.follow))
			}
			link(t, dir, filepath.Join(base, "current")) // the directory's own path may be a link
			for _, dir := range []string{dir, filepath.Join(base, "current")} {
				got, err := readFile(t.Context(), d, dir, "weights")
				if c.refused == "" && (err != nil || got != "weights") {
					t.Errorf("read %q, %v", got, err)
				}
				reason := strings.ReplaceAll(c.refused, "BASE", base)
				if c.refused != "" && (got != "" || !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), reason)) {
					t.Errorf("read %q, %v, want a refusal with %s", got, err, reason)
				}
			}
		})
	}
}

// What becomes a link after it was listed, a file or a folder on the way to it, is not
// followed either.
func TestOpenWhatBecameALink(t *testing.T) {
	for name, swap := range map[string]func(dir string) error{
		"the file":   func(dir string) error { return replace(dir, "sub/weights", "../../outside/weights") },
		"its folder": func(dir string) error { return replace(dir, "sub", "../outside") },
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir := filepath.Join(base, "source")
			write(t, filepath.Join(base, "outside/weights"), []byte(secret))
			write(t, filepath.Join(dir, "sub/weights"), []byte(strings.Repeat("w", len(secret))))
			info, err := os.Stat(filepath.Join(dir, "sub/weights"))
			if err == nil {
				err = os.Chtimes(filepath.Join(base, "outside/weights"), info.ModTime(), info.ModTime())
			}
			if err != nil {
				t.Fatal(err)
			}
			d := file.New()
			l, err := d.List(t.Context(), source(dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := swap(dir); err != nil {
				t.Fatal(err)
			}
			_, err = d.Open(t.Context(), fetcher.Object{Source: source(dir), Revision: l.Revision, File: l.Files[0]}, 0, l.Files[0].Size)
			if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), "outside") {
				t.Errorf("open ends with %v, want a refusal", err)
			}
		})
	}
}

func replace(dir, name, target string) error {
	path := filepath.Join(dir, name)
	return errors.Join(os.RemoveAll(path), os.Symlink(target, path))
}

// However often a file, a folder and a Hub repository's blobs are swapped for links
// while they are read, a secret outside is never among what is read.
func TestLinksThatAreSwapped(t *testing.T) {
	base := t.TempDir()
	repository := filepath.Join(base, "models--org--tiny")
	dir := filepath.Join(repository, "snapshots", commit)
	content := strings.Repeat("w", len(secret))
	for _, name := range []string{"outside/file", "outside/deep", "outside/blob"} {
		write(t, filepath.Join(base, name), []byte(secret))
	}
	write(t, filepath.Join(dir, "file"), []byte(content))
	write(t, filepath.Join(dir, "sub/deep"), []byte(content))
	write(t, filepath.Join(repository, "blobs/blob"), []byte(content))
	link(t, "../../blobs/blob", filepath.Join(dir, "blob"))
	now, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"outside/file", "outside/deep", "outside/blob", "models--org--tiny/blobs/blob"} {
		if err := os.Chtimes(filepath.Join(base, path), now.ModTime(), now.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "sub/deep"), now.ModTime(), now.ModTime()); err != nil {
		t.Fatal(err)
	}
	version := file.New()
	l, err := version.List(t.Context(), source(dir))
	if err != nil || len(l.Files) != 3 {
		t.Fatal(l, err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var swapping sync.WaitGroup
	for path, outside := range map[string]string{filepath.Join(dir, "file"): "outside/file", filepath.Join(dir, "sub"): "outside", filepath.Join(repository, "blobs"): "outside"} {
		evil := path + "-evil"
		link(t, filepath.Join(base, outside), evil)
		swapping.Go(func() {
			for ctx.Err() == nil {
				if err := exchange(path, evil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	read, refused := 0, 0
	for i := range 3000 {
		f := l.Files[i%3]
		body, err := version.Open(t.Context(), fetcher.Object{Source: source(dir), Revision: l.Revision, File: f}, 0, f.Size)
		if err != nil {
			refused++
			continue
		}
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err == nil && string(got) == content {
			read++
		} else if strings.Contains(string(got), "secret") {
			t.Fatalf("read %q of %s", got, f.Path)
		}
	}
	stop()
	swapping.Wait()
	t.Logf("read %d times, refused %d times", read, refused)
	if read == 0 || refused == 0 {
		t.Error("the swaps were never seen, or always")
	}
}
