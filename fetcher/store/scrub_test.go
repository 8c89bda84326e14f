package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/store"
)

// rot flips a bit in the middle of a blob, and leaves size and times.
func rot(t *testing.T, blob string) {
	t.Helper()
	info, err := os.Stat(blob)
	must(t, err)
	must(t, os.Chmod(blob, 0o644))
	f, err := os.OpenFile(blob, os.O_RDWR, 0)
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, info.Size()/2)
	must(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b, info.Size()/2)
	must(t, errors.Join(err, f.Close()))
	must(t, os.Chmod(blob, 0o444))
	must(t, os.Chtimes(blob, info.ModTime(), info.ModTime()))
}

// scrub reads a blob to its end, in how many steps it takes.
func scrub(t *testing.T, s *store.Store, sum string) (steps int, err error) {
	t.Helper()
	p := store.ScrubPoint{SHA256: sum}
	for !p.Done {
		before := p.Offset
		if p, err = s.Scrub(t.Context(), p); err != nil {
			return steps, err
		}
		if n := p.Offset - before; n > store.ScrubPiece || n == 0 && !p.Done {
			t.Fatalf("step %d read %d bytes", steps, n)
		}
		steps++
	}
	return steps, nil
}

// large is content of more than two pieces, whose last is not full.
func large(c string) string { return strings.Repeat(c, 2<<20) + "the end" }

func TestScrubOfWhatIsRight(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, map[string]string{"a": "", "b": "b", "c": large("c"), "d": strings.Repeat("d", 1<<20)})
	publish(t, s, "tiny", repo, commitB, map[string]string{"a": "new"})
	publish(t, s, "other", repo, commitB, map[string]string{"x": "b", "y": "b"})
	before := snapshot(t, s.Dir())
	blobs, err := s.Blobs(t.Context())
	must(t, err)
	if len(blobs) != 5 || !slices.IsSortedFunc(blobs, func(a, b store.Blob) int { return strings.Compare(a.SHA256, b.SHA256) }) {
		t.Fatalf("blobs %+v", blobs)
	}
	steps := map[int]int{}
	for _, b := range blobs {
		n, err := scrub(t, s, b.SHA256)
		must(t, err)
		steps[n]++
		if b.VerifiedAt.IsZero() || b.SHA256 == sumOf("b") && !slices.Equal(b.Models, []string{"other", "tiny"}) {
			t.Errorf("blob %+v", b)
		}
	}
	if steps[1] != 4 || steps[3] != 1 {
		t.Errorf("steps: %v", steps)
	}
	if after := snapshot(t, s.Dir()); after != before {
		t.Errorf("scrubbing changed\n%s\nto\n%s", before, after)
	}
}

// Wherever the scrub comes upon wrong bytes, no model that uses them is good any
// longer, and a pull replaces them and nothing else.
func TestScrubFindsRot(t *testing.T) {
	s := newStore(t)
	files := map[string]string{"a": "good", "b": large("b")}
	m := publish(t, s, "tiny", repo, commitA, files)
	other := publish(t, s, "other", "s3://bucket/x", "r1", map[string]string{"x": large("b")})
	rot(t, s.BlobPath(sumOf(large("b"))))
	must(t, s.Check(t.Context(), m))
	if _, err := scrub(t, s, sumOf(large("b"))); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrUnverified) {
		t.Errorf("scrub: %v", err)
	}
	if _, err := scrub(t, s, sumOf("good")); err != nil {
		t.Errorf("scrub of the other file: %v", err)
	}
	for name, s := range map[string]*store.Store{"same process": s, "after a restart": open(t, s.Dir())} {
		for _, m := range []store.Manifest{m, other} {
			if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: Check of %s: %v", name, m.Name, err)
			}
		}
		// It is known: looking again finds nothing new, and reads nothing.
		if n, err := scrub(t, s, sumOf(large("b"))); !errors.Is(err, store.ErrUnverified) || n > 0 {
			t.Errorf("%s: scrub after %d steps: %v", name, n, err)
		}
	}
	g := stage(t, s, "tiny")
	must(t, g.Keep(t.Context(), sumOf("good"), sumOf(large("b"))))
	for content, want := range map[string]bool{"good": true, large("b"): false} {
		if here, err := g.Has(t.Context(), sumOf(content), int64(len(content)), nil); err != nil || here != want {
			t.Errorf("has a file of %d bytes: %v, %v", len(content), here, err)
		}
	}
	closeStaging(t, g)
	m = publish(t, s, "tiny", repo, commitA, files)
	other = publish(t, s, "other", "s3://bucket/x", "r1", map[string]string{"x": large("b")})
	must(t, errors.Join(s.Check(t.Context(), m), s.Check(t.Context(), other)))
	_, err := scrub(t, s, sumOf(large("b")))
	must(t, err)
}

// What the scrub finds wrong on the disk is wrong, though the page cache holds
// what it should be.
func TestScrubReadsTheDisk(t *testing.T) {
	p := newPowered(t)
	s := open(t, filepath.Join(p.dir, "store"))
	content := strings.Repeat("a page that is found again on the disk ", 4096)
	m := publish(t, s, "tiny", repo, commitA, map[string]string{"a": content})
	blob := s.BlobPath(sumOf(content))
	_, err := os.ReadFile(blob)
	must(t, err)

	image, err := os.ReadFile(p.image)
	must(t, err)
	at := bytes.Index(image, []byte(content[:4096]))
	if at < 0 {
		t.Fatal("the content is not on the disk")
	}
	f, err := os.OpenFile(p.image, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("b"), int64(at))
	must(t, errors.Join(err, f.Close()))

	got, err := os.ReadFile(blob)
	must(t, err)
	if string(got) != content {
		t.Fatal("the page cache does not hold the content")
	}
	if _, err := scrub(t, s, sumOf(content)); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrUnverified) {
		t.Errorf("scrub: %v", err)
	}
	if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Check: %v", err)
	}
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	if here, err := g.Has(t.Context(), sumOf(content), int64(len(content)), nil); here || err != nil {
		t.Errorf("has it: %v, %v", here, err)
	}
}

func TestScrubGoesOnAfterARestart(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, map[string]string{"a": large("a")})
	p, err := s.Scrub(t.Context(), store.ScrubPoint{SHA256: sumOf(large("a"))})
	must(t, err)
	kept, err := json.Marshal(p)
	must(t, err)

	again := func() (store.ScrubPoint, error) {
		var p store.ScrubPoint
		must(t, json.Unmarshal(kept, &p))
		s := open(t, s.Dir())
		p, err := s.Scrub(t.Context(), p)
		for err == nil && !p.Done {
			p, err = s.Scrub(t.Context(), p)
		}
		return p, err
	}
	p, err = again()
	if err != nil || !p.Done {
		t.Errorf("%+v, %v", p, err)
	}

	// Another file of the same content has been read by nobody.
	must(t, os.Remove(s.BlobPath(sumOf(large("a")))))
	publish(t, s, "tiny", repo, commitA, map[string]string{"a": large("a")})
	var old store.ScrubPoint
	must(t, json.Unmarshal(kept, &old))
	if p, err = s.Scrub(t.Context(), old); err != nil || p.Offset != store.ScrubPiece {
		t.Errorf("went on with another file: %+v, %v", p, err)
	}
	// Neither has one whose memory is damaged.
	kept, err = json.Marshal(store.ScrubPoint{SHA256: p.SHA256, Offset: p.Offset, Size: p.Size, MtimeNanos: p.MtimeNanos, Inode: p.Inode, Hash: []byte("?")})
	must(t, err)
	if p, err = again(); err != nil || !p.Done {
		t.Errorf("damaged memory: %+v, %v", p, err)
	}
	// And what it read before may have rotted since: that is for the next cycle.
	rot(t, s.BlobPath(sumOf(large("a"))))
	if _, err := again(); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("rot: %v", err)
	}
}

// Damage that stat shows is Check's to tell; a scrub waits for no pipe.
func TestScrubOfDamage(t *testing.T) {
	for name, damage := range damages {
		if !strings.HasPrefix(name, "blob") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			damage(t, s, publish(t, s, "tiny", repo, commitA, tiny))
			if n, err := scrub(t, s, sumOf("weights")); !errors.Is(err, store.ErrUnverified) || n != 0 {
				t.Errorf("%d steps, %v", n, err)
			}
		})
	}
}

func TestScrubEnded(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, map[string]string{"a": large("a")})
	ctx, cancel := context.WithCancel(t.Context())
	p, err := s.Scrub(ctx, store.ScrubPoint{SHA256: sumOf(large("a"))})
	must(t, err)
	cancel()
	if now, err := s.Scrub(ctx, p); !errors.Is(err, context.Canceled) || now.Offset != p.Offset {
		t.Errorf("%+v, %v", now, err)
	}
	must(t, s.Check(t.Context(), m))
}

// On a file system that has become read-only nothing can be written down: the
// process remembers it.
func TestScrubOfReadOnlyVolume(t *testing.T) {
	p := newPowered(t)
	s := open(t, filepath.Join(p.dir, "store"))
	m := publish(t, s, "tiny", repo, commitA, tiny)
	rot(t, s.BlobPath(sumOf("weights")))
	must(t, unix.Mount("", p.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(t, s.Check(t.Context(), m))
	if _, err := scrub(t, s, sumOf("weights")); !errors.Is(err, store.ErrCorrupt) || !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("scrub: %v", err)
	}
	if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Check: %v", err)
	}
	must(t, unix.Mount("", p.dir, "", unix.MS_REMOUNT, ""))
	m = publish(t, s, "tiny", repo, commitA, tiny)
	must(t, s.Check(t.Context(), m))
}

// A full disk does not keep what is wrong from being known to be.
func TestScrubOfFullVolume(t *testing.T) {
	s := open(t, filepath.Join(mount(t, "none", "tmpfs", "size=1m"), "store"))
	m := publish(t, s, "tiny", repo, commitA, tiny)
	rot(t, s.BlobPath(sumOf("weights")))
	if err := os.WriteFile(filepath.Join(s.Dir(), "ballast"), make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	if _, err := scrub(t, s, sumOf("weights")); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNoSpace) {
		t.Errorf("scrub: %v", err)
	}
	for name, s := range map[string]*store.Store{"same process": s, "after a restart": open(t, s.Dir())} {
		if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
