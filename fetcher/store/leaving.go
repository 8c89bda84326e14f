package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// leavingDir holds a file for each model whose files the writer is about to take.
const leavingDir = "agent/leaving"

// SetLeaving says to the agents that share the store that nobody may promise the
// model any more, because its files will go, or takes that back.
func (s *Store) SetLeaving(name string, leaving bool) error {
	err := errors.Join(s.checkWritable(), checkFolder(name))
	if err == nil && !leaving {
		err = s.removeIfExists(filepath.Join(s.dir, leavingDir, name))
	} else if err == nil {
		if err = s.makeDir(filepath.Join(s.dir, leavingDir)); err == nil {
			err = s.writeFile(filepath.Join(s.dir, leavingDir, name), nil, true)
		}
	}
	if err != nil {
		return fmt.Errorf("say whether %s leaves: %w", name, asStoreError(err))
	}
	return nil
}

// Leaving are the models that the writer is about to remove.
func (s *Store) Leaving() (map[string]bool, error) {
	if !s.shared && !s.sealed {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, leavingDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("see which models leave the store: %w", err)
	}
	all := map[string]bool{}
	for _, e := range entries {
		all[e.Name()] = true
	}
	return all, nil
}
