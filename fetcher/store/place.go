package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openPlace opens a file of the store to write into it. What is in its place and is
// not good, or cannot be opened as a file, is removed first: writing through a link or
// into a pipe would be outside the store, or without an end.
func (s *Store) openPlace(path string, flags int, mode fs.FileMode, good func(fs.FileInfo) bool) (*os.File, fs.FileInfo, error) {
	for range 10 { // somebody may put it there again and again
		f, err := s.openToWrite(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
		if err != nil && !misplaced(err) {
			return nil, nil, err
		}
		if err == nil {
			info, err := f.Stat()
			if err == nil && good(info) {
				return f, info, nil
			}
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, nil, err
			}
		}
		if err := s.clearPlace(path, good); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("%s is replaced by something else all the time; find out who does that", path)
}

// clearPlace removes what is at path and is not good. Of several processes that have
// seen the same, one after the other looks: the second must not remove what the first
// has made by then. ErrBusy.
func (s *Store) clearPlace(path string, good func(fs.FileInfo) bool) error {
	if !s.shared { // there, one process writes
		dir, err := openDir(filepath.Dir(path), unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		defer dir.Close()
		if err := flock(dir); err != nil {
			return err
		}
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || good(info) {
		return err
	}
	return s.removeAll(path)
}
