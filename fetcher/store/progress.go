package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Progress is how far a pull is: what another pull of the same model, which
// waits for it, shows meanwhile.
type Progress struct {
	Revision string `json:"revision"`
	// Bytes of TotalBytes, and Files of TotalFiles, are in the store.
	Bytes      int64 `json:"bytes"`
	TotalBytes int64 `json:"totalBytes"`
	Files      int   `json:"files"`
	TotalFiles int   `json:"totalFiles"`
}

func (s *Store) progressPath(name string) string {
	return filepath.Join(s.dir, "agent", "progress", name+".json")
}

// WriteProgress says how far this pull is. It is gone when the staging is
// closed, or when the next one begins.
func (g *Staging) WriteProgress(p Progress) error {
	return g.store.writeJSON(g.store.progressPath(g.name), p, false)
}

// ReadProgress is how far the pull of the model is that is under way;
// ErrNotFound if none has said so.
func (s *Store) ReadProgress(name string) (Progress, error) {
	if err := checkFolder(name); err != nil {
		return Progress{}, err
	}
	var p Progress
	err := s.readJSON(s.progressPath(name), maxNote, &p)
	if errors.Is(err, fs.ErrNotExist) {
		return Progress{}, fmt.Errorf("no pull of %s says how far it is: %w", name, ErrNotFound)
	}
	return p, err
}
