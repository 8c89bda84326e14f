package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// Manifests are decoded once, and still what the file says now is what counts:
// also if the file looks the same to stat.
func TestManifestsAreReadAgain(t *testing.T) {
	s := newStore(t)
	publish(t, s, "tiny", repo, commitA, tiny)
	read := func() store.Manifest {
		t.Helper()
		m, err := s.Manifest("tiny", commitA)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := read()
	if again := read(); &again.Files[0] != &first.Files[0] {
		t.Error("an unchanged manifest is decoded again")
	}

	path := filepath.Join(s.Dir(), "manifests", "tiny", commitA+".json")
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	rotten := bytes.Replace(right, []byte(`"bytes":`), []byte(`"bytfs":`), 1)
	rewrite := func(content []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, content, 0o644), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(rotten)
	if _, err := s.Manifest("tiny", commitA); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a manifest that rotted: %v", err)
	}
	if published, err := s.Published(); err != nil || len(published) > 0 {
		t.Errorf("a manifest that rotted is published: %v, %v", published, err)
	}
	rewrite(right)
	read()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Manifest("tiny", commitA); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a manifest that was removed: %v", err)
	}
}
