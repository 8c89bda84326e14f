package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

func sealed(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.OpenSealed(dir)
	must(t, err)
	must(t, s.Ensure(t.Context()))
	return s
}

func TestNothingWritesIntoASealedStore(t *testing.T) {
	w := newStore(t)
	m := publish(t, w, "tiny", repo, commitA, tiny)
	before := snapshot(t, w.Dir())
	s := sealed(t, w.Dir())
	must(t, s.Check(t.Context(), m))
	_, stageErr := s.Stage(t.Context(), "other", nil)
	_, gcErr := s.GC(t.Context(), 0)
	_, probeErr := s.Probe()
	for doing, err := range map[string]error{
		"stage": stageErr, "gc": gcErr, "probe": probeErr, "remove": s.Remove(t.Context(), "tiny"), "remove a revision": s.RemoveRevision(t.Context(), "tiny", commitA),
		"write a status": s.WriteStatus(store.Status{Name: "tiny"}), "remove one": s.RemoveStatus("tiny"), "sign": s.WriteHeartbeat(store.Heartbeat{}),
		"say that it leaves": s.SetLeaving("tiny", true), "remember": s.WriteAgentFile("x", nil),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if err := s.Lead(t.Context()); err == nil {
		t.Error("it can be led")
	}
	rot(t, w.BlobPath(sumOf("weights")))
	if res, err := s.Verify(t.Context(), m, nil); err != nil || len(res.Problems) != 2 {
		t.Errorf("verify: %+v, %v", res, err)
	}
	if _, err := scrub(t, s, sumOf("weights")); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("scrub: %v", err)
	}
	rot(t, w.BlobPath(sumOf("weights"))) // the bit that was flipped, flipped back
	must(t, s.Ensure(t.Context()))
	if after := snapshot(t, w.Dir()); after != before || s.Writable() {
		t.Errorf("the store was changed:\n%s\nis now\n%s", before, after)
	}
}

func TestASealedStoreRemembersWhatItRead(t *testing.T) {
	w := newStore(t)
	m := publish(t, w, "tiny", repo, commitA, tiny)
	must(t, os.RemoveAll(filepath.Join(w.Dir(), "agent")))
	s := sealed(t, w.Dir())
	if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrUnverified) {
		t.Fatalf("unread, it is %v", err)
	}
	for i, f := range m.Files {
		seen, err := s.Survey(t.Context(), m)
		must(t, err)
		if seen.Known[i] && f.Path != "model.safetensors" { // its content was read as another file's
			t.Errorf("%s is known before it was read", f.Path)
		}
		_, err = scrub(t, s, f.SHA256)
		must(t, err)
	}
	must(t, s.Check(t.Context(), m))
	seen, err := s.Survey(t.Context(), m)
	must(t, err)

	// Another process sees the same, and trusts it.
	other := sealed(t, w.Dir())
	theirs, err := other.Survey(t.Context(), m)
	must(t, err)
	if theirs.Print != seen.Print {
		t.Fatal("two looks at the same files have two prints")
	}
	other.Trust(m, theirs, 0, 1, 2, 3)
	must(t, other.Check(t.Context(), m))

	// What it has found wrong itself, it does not.
	other.Doubt(m, theirs, 1)
	other.Trust(m, theirs, 1)
	if err := other.Check(t.Context(), m); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("doubted, it is %v", err)
	}
	if again, err := other.Survey(t.Context(), m); err != nil || !again.Doubted[1] || again.Known[1] {
		t.Errorf("doubted: %+v, %v", again, err)
	}
	_, err = scrub(t, other, m.Files[1].SHA256)
	must(t, err)
	must(t, other.Check(t.Context(), m))

	// A file that was changed is another one.
	later := time.Now().Add(time.Hour)
	must(t, os.Chtimes(w.BlobPath(m.Files[2].SHA256), later, later))
	if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("changed, it is %v", err)
	}
	s.Trust(m, seen, 2)
	if err := s.Check(t.Context(), m); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("trusted for what it was, it is %v", err)
	}
	if changed, err := s.Survey(t.Context(), m); err != nil || changed.Print == seen.Print {
		t.Errorf("a changed file leaves the print: %v", err)
	}
	must(t, os.Remove(w.BlobPath(m.Files[3].SHA256)))
	if _, err := s.Survey(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("with a file missing: %v", err)
	}
}

func TestASealedStoreWaitsForItsVolume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	s, err := store.OpenSealed(dir)
	must(t, err)
	if err := s.Ensure(t.Context()); !errors.Is(err, store.ErrVanished) {
		t.Errorf("without a volume: %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("it was made")
	}
	must(t, os.MkdirAll(filepath.Join(dir, "agent"), 0o755))
	must(t, s.Ensure(t.Context()))
	if all, err := s.Published(); err != nil || len(all) != 0 {
		t.Errorf("an empty volume has %d models, %v", len(all), err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "agent", "format"), []byte("99\n"), 0o644))
	if err := s.Ensure(t.Context()); !errors.Is(err, store.ErrNewer) {
		t.Errorf("a newer stoker's: %v", err)
	}
}
