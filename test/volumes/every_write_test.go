package volumes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stoker-project/stoker/fetcher/store"
)

// changes counts what changes a file system, and lets it fail from one such
// operation on. The zero value lets all through.
type changes struct {
	mu     sync.Mutex
	status fuse.Status
	begin  int // the first that fails, counted from 1; 0: none
	count  int // how many of those that follow fail, with it
	seen   int
	failed int
}

// arm starts the count anew.
func (c *changes) arm(status fuse.Status, begin, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.begin, c.count, c.seen, c.failed = status, begin, count, 0, 0
}

// told is how many changes were asked for, and how many of them failed.
func (c *changes) told() (seen, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen, c.failed
}

// loses is a failure that nobody is told of: zeros are kept instead of the bytes
// that were written. Nothing but writing can fail like that.
const loses = fuse.Status(-1)

// next is asked before each change that is no write.
func (c *changes) next() fuse.Status {
	status := c.nextWrite()
	if status == loses {
		return fuse.OK
	}
	return status
}

// nextWrite is asked before each write.
func (c *changes) nextWrite() fuse.Status {
	if c == nil {
		return fuse.OK
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen++
	if c.begin == 0 || c.seen < c.begin || c.seen-c.begin >= c.count {
		return fuse.OK
	}
	c.failed++
	return c.status
}

const every = 1 << 30

// A pull whose disk fails at one operation, whichever that is, or from there on,
// publishes nothing that is not whole, loses nothing that was published, and is
// done by the next one when the disk is well again.
func TestDiskThatFailsAtEveryWrite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status fuse.Status
		count  int
		code   int
	}{
		"no room once":  {fuse.Status(syscall.ENOSPC), 1, 5},
		"no room since": {fuse.Status(syscall.ENOSPC), every, 5},
		"an I/O error":  {fuse.EIO, 1, 1},
		"I/O errors":    {fuse.EIO, every, 1},
		"a lost write":  {loses, 1, 4},
		"lost writes":   {loses, every, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFailing(t)
			total := w.try(t, 0, c.status, 0, 0)
			t.Logf("a pull changes the disk %d times", total)
			if total < 50 {
				t.Fatal("that is less than it takes to publish")
			}
			for begin := 1; begin <= total; begin++ {
				w.try(t, begin, c.status, c.count, c.code)
			}
		})
	}
}

// failing is a disk that fails when it is told, and a source in two versions.
type failing struct {
	changes     changes
	below, at   string
	source, dir string
	first, last map[string]string
}

func newFailing(t *testing.T) *failing {
	t.Helper()
	w := &failing{below: t.TempDir()}
	w.at = mount(t, w.below, faults{changes: &w.changes})
	// One of the files is large enough to have a transfer and a journal of its own.
	large := strings.Repeat("weights ", 100<<10)
	w.first = map[string]string{"config.json": "{}", "model.safetensors": large, "sub/tokenizer.json": "tokens"}
	w.last = map[string]string{"config.json": "{ }", "model.safetensors": "other " + large, "sub/tokenizer.json": "tokens"}
	w.source = source(t, nil)
	w.dir = strings.TrimPrefix(w.source, "file://")
	return w
}

// offer puts these files at the source. Their times tell the versions apart.
func (w *failing) offer(t *testing.T, files map[string]string, at time.Time) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(w.dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
}

// try pulls one version with nothing in the way, and then the other one while
// the disk fails. It returns how many changes that one asked for.
func (w *failing) try(t *testing.T, begin int, status fuse.Status, count, code int) int {
	t.Helper()
	dir := filepath.Join(w.at, fmt.Sprint("store-", begin))
	early, late := time.Unix(1e9, 0), time.Unix(2e9, 0)
	pull := func(what string, codes ...int) {
		t.Helper()
		var out bytes.Buffer
		got := stoker(t, &out, "pull", w.source, "--store", dir, "--progress", "none")
		for _, code := range codes {
			if got == code {
				return
			}
		}
		t.Errorf("change %d fails: %s ends with %d, not %v: %s", begin, what, got, codes, out.String())
	}
	w.changes.arm(fuse.OK, 0, 0)
	w.offer(t, w.first, early)
	pull("the first pull", 0)
	w.offer(t, w.last, late)

	w.changes.arm(status, begin, count)
	pull("the pull", 0, code)
	seen, failed := w.changes.told()
	w.changes.arm(fuse.OK, 0, 0)
	if begin > 0 && failed == 0 && begin <= seen { // a slow pull also says how far it is
		t.Errorf("change %d of %d did not fail", begin, seen)
	}
	if n := w.check(t, begin, dir); n == 0 {
		t.Errorf("change %d fails: nothing is published any more", begin)
	}

	pull("the next pull", 0)
	w.check(t, begin, dir)
	s, err := store.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Lookup("tiny")
	if err != nil {
		t.Fatal(err)
	}
	w.holds(t, begin, filepath.Join(dir, "models", "tiny", "current"), w.last)
	if err := s.Check(t.Context(), m); err != nil {
		t.Errorf("change %d failed, and the next pull: %v", begin, err)
	}
	if err := os.RemoveAll(filepath.Join(w.below, filepath.Base(dir))); err != nil {
		t.Fatal(err)
	}
	return seen
}

// check reads everything that is published, by nothing but the layout, and
// returns how many revisions are.
func (w *failing) check(t *testing.T, begin int, dir string) int {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(dir, "manifests", "tiny", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range manifests {
		revision := strings.TrimSuffix(filepath.Base(path), ".json")
		published := filepath.Join(dir, "models", "tiny", revision)
		content, err := os.ReadFile(filepath.Join(published, "model.safetensors"))
		if err != nil {
			t.Errorf("change %d fails: %v", begin, err)
			continue
		}
		want := w.last
		if string(content) == w.first["model.safetensors"] {
			want = w.first
		}
		w.holds(t, begin, published, want)
	}
	return len(manifests)
}

// holds says whether a folder shows exactly these files, each out of a blob that
// has the name of its content.
func (w *failing) holds(t *testing.T, begin int, dir string, want map[string]string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Errorf("change %d fails: %v", begin, err)
		return
	}
	found := 0
	err = filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		found++
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if expected, ok := want[name]; !ok || string(content) != expected {
			t.Errorf("change %d fails: %s holds %d bytes which are not the %d that it should", begin, name, len(content), len(expected))
		}
		blob, err := filepath.EvalSymlinks(path)
		sum := sha256.Sum256(content)
		if filepath.Base(blob) != hex.EncodeToString(sum[:]) {
			t.Errorf("change %d fails: %s is in blob %s", begin, name, blob)
		}
		return err
	})
	if err != nil || found != len(want) {
		t.Errorf("change %d fails: %s has %d files of %d: %v", begin, dir, found, len(want), err)
	}
}
