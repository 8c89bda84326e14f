package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// The store's own folders are made when it is opened, and by Ensure, which looks
// where they are. Who works in them while the volume goes leaves nothing behind in
// its place.
func TestWorkMakesNoFolderOfTheStoreItself(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{"hub", "models", "manifests"} {
		if err := os.RemoveAll(filepath.Join(dir, own)); err != nil {
			t.Fatal(err)
		}
		if err := s.makeDir(filepath.Join(dir, own, "a", "b")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", own, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, own)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", own, err)
		}
	}
	if err := s.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.makeDir(filepath.Join(dir, "hub", "a", "b")); err != nil {
		t.Error(err)
	}
}
