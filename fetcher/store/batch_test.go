package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/store"
)

func small(contents ...string) []store.Small {
	var all []store.Small
	for i, c := range contents {
		all = append(all, store.Small{SHA256: sumOf(c), Key: fmt.Sprintf("key %d", i), Content: []byte(c)})
	}
	return all
}

// blobs maps the names of all blobs to their contents.
func blobs(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Dir(), "blobs", "sha256"))
	must(t, err)
	all := map[string]string{}
	for _, e := range entries {
		content, err := os.ReadFile(s.BlobPath(e.Name()))
		must(t, err)
		all[e.Name()] = string(content)
	}
	return all
}

// leftovers are the names of temporary files.
func leftovers(t *testing.T, s *store.Store) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{"partial", "agent/verified", "blobs/sha256"} {
		found, err := filepath.Glob(filepath.Join(s.Dir(), dir, ".stoker-tmp-*"))
		must(t, err)
		names = append(names, found...)
	}
	return names
}

func TestAdmitSmall(t *testing.T) {
	t.Parallel()
	// Fewer than are synced as one, more, and more than are open at once.
	for _, n := range []int{1, 8, 9, 300} {
		s := newStore(t)
		publish(t, s, "other", repo, commitB, map[string]string{"x": "0"})
		before, err := os.Stat(s.BlobPath(sumOf("0")))
		must(t, err)
		g := stage(t, s, "many")
		files, contents := map[string]string{"empty": ""}, []string{""}
		for i := range n {
			contents = append(contents, fmt.Sprint(i), fmt.Sprint(i)) // each twice, and "0" is here
			files[fmt.Sprintf("sub-%d/%d.json", i%20, i)] = fmt.Sprint(i)
		}
		must(t, g.AdmitSmall(t.Context(), small(contents...)))
		finished, err := g.Finished()
		must(t, err)
		for i, c := range contents {
			if finished[fmt.Sprintf("key %d", i)] != sumOf(c) {
				t.Fatalf("%d contents: %q is not known to be admitted", n, c)
			}
		}
		must(t, g.Publish(t.Context(), manifest("many", repo, commitA, files)))
		closeStaging(t, g)
		checkFiles(t, s.Path("many", commitA), files)
		// By records alone: nothing is hashed.
		m, err := s.Lookup("many")
		must(t, err)
		must(t, s.Check(t.Context(), m))
		if after, err := os.Stat(s.BlobPath(sumOf("0"))); err != nil || !os.SameFile(before, after) {
			t.Errorf("%d contents: what was here was replaced (%v)", n, err)
		}
		if left := leftovers(t, s); len(left) > 0 || len(blobs(t, s)) != n+1 {
			t.Errorf("%d contents: left %v and %d blobs", n, left, len(blobs(t, s)))
		}
	}
}

func TestAdmitSmallWithTightUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := newStore(t)
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	must(t, g.AdmitSmall(t.Context(), small("a")))
	for _, path := range []string{s.BlobPath(sumOf("a")), s.AgentFile("verified/" + sumOf("a") + ".json")} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}

// A blob that is damaged, or that nobody vouches for, gives way.
func TestAdmitSmallMendsDamage(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	writeFile(t, s.BlobPath(sumOf("content")), "damaged")
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	must(t, g.AdmitSmall(t.Context(), small("content")))
	if got := blobs(t, s); len(got) != 1 || got[sumOf("content")] != "content" {
		t.Errorf("blobs are %v", got)
	}
	if here, err := g.Has(t.Context(), sumOf("content"), 7, func(int) { t.Error("it was read") }); err != nil || !here {
		t.Errorf("%v, %v", here, err)
	}
}

func TestAdmitSmallRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	before := snapshot(t, s.Dir())
	if err := g.AdmitSmall(t.Context(), append(small("a"), store.Small{SHA256: "../../x", Content: []byte("b")})); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a name that leaves the store gives %v", err)
	}
	if after := snapshot(t, s.Dir()); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.AdmitSmall(ctx, small("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled context gives %v", err)
	}
	if got, left := blobs(t, s), leftovers(t, s); len(got) > 0 || len(left) > 0 {
		t.Errorf("blobs are %v, left %v", got, left)
	}
}

// A disk that fills up in the middle of a batch leaves nothing of it.
func TestAdmitSmallWithoutRoom(t *testing.T) {
	t.Parallel()
	s := open(t, mount(t, "none", "tmpfs", "size=1m"))
	g := stage(t, s, "tiny")
	defer closeStaging(t, g)
	var contents []string
	for i := range 20 {
		contents = append(contents, strings.Repeat(fmt.Sprint(i), 100_000))
	}
	if err := g.AdmitSmall(t.Context(), small(contents...)); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a full disk gives %v", err)
	}
	if got, left := blobs(t, s), leftovers(t, s); len(got) > 0 || len(left) > 0 {
		t.Errorf("%d blobs, left %v", len(got), left)
	}
	must(t, g.AdmitSmall(t.Context(), small(contents[:3]...)))
}

// What AdmitSmall has admitted is whole after a power cut, and what it was
// admitting has no name: the file system is stopped as a power cut would, with
// all that was not synced lost.
func TestAdmitSmallAndAPowerCut(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 40} { // synced one by one, and as a whole
		p := newPowered(t)
		s := open(t, p.dir)
		g := stage(t, s, "tiny")
		var contents []string
		for i := range n {
			contents = append(contents, fmt.Sprintf("content %d", i))
		}
		must(t, g.AdmitSmall(t.Context(), small(contents...)))
		p.cut()
		_ = g.Close() // its disk is gone
		p.restore()
		got := blobs(t, open(t, p.dir))
		for _, c := range contents {
			if got[sumOf(c)] != c {
				t.Errorf("of %d, the blob of %q is %q", n, c, got[sumOf(c)])
			}
		}
	}
}

func TestAdmittingSmallInAPowerCut(t *testing.T) {
	t.Parallel()
	p := newPowered(t)
	for round := range 6 {
		s := open(t, p.dir)
		g := stage(t, s, "tiny")
		cut := make(chan struct{})
		started := make(chan struct{})
		go func() {
			defer close(cut)
			<-started
			// Wherever the work is just then.
			for range round * 1000 {
				_, _ = os.Stat(p.dir)
			}
			p.cut()
		}()
		for i := 0; ; i++ {
			var contents []string
			for j := range 100 {
				contents = append(contents, fmt.Sprintf("round %d, batch %d, content %d", round, i, j))
			}
			if err := g.AdmitSmall(t.Context(), small(contents...)); err != nil {
				break
			}
			if i == 0 {
				close(started)
			}
		}
		<-cut
		_ = g.Close() // its disk is gone
		p.restore()
		for name, content := range blobs(t, open(t, p.dir)) {
			if sumOf(content) != name {
				t.Errorf("round %d: blob %s holds %q", round, name, content)
			}
		}
	}
}

// Collection beside a batch that takes long leaves it alone, and takes what a
// kill left of another.
func TestGCBesideABatch(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	dir := filepath.Join(s.Dir(), "partial")
	working, left := filepath.Join(dir, ".stoker-tmp-batch-1"), filepath.Join(dir, ".stoker-tmp-batch-2")
	writeFile(t, filepath.Join(working, "0"), "a")
	writeFile(t, filepath.Join(left, "0"), "b")
	for _, path := range []string{working, left} {
		old := unix.NsecToTimeval(1)
		must(t, unix.Utimes(path, []unix.Timeval{old, old}))
	}
	f, err := os.Open(working)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	gc(t, s, 0)
	if !exists(t, filepath.Join(working, "0")) {
		t.Error("the batch that somebody works on is gone")
	}
	if exists(t, left) {
		t.Error("what was left is still there")
	}
}
