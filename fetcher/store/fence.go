package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// tempMode is a temporary file's until it is given its own.
const tempMode fs.FileMode = 0o600

// tempFile makes a file that is to be renamed to a name in dir.
func (s *Store) tempFile(dir string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	if !s.shared {
		return s.openToWrite(filepath.Join(dir, tempPrefix+rand.Text()), flags, tempMode)
	}
	t, err := s.now()
	if err != nil {
		return nil, err
	}
	f, err := s.openToWrite(t.temp(), flags, fileMode)
	return f, t.fenced(err)
}

// tempDir is tempFile for a folder of files; parent counts where the store is one
// machine's.
func (s *Store) tempDir(parent, pattern string) (string, error) {
	if !s.shared {
		return os.MkdirTemp(parent, tempPrefix+pattern)
	}
	t, err := s.now()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(t.dir, tempPrefix+pattern)
	return dir, t.fenced(err)
}

// dropTemp removes what has a temporary name, with all that is in it: it is of
// this process only, and promises nothing.
func dropTemp(path string) error { return os.RemoveAll(path) }

// now is the term of this process, or why it has none.
func (s *Store) now() (*term, error) {
	if t := s.term.Load(); t != nil {
		if t.paused != nil {
			t.paused()
		}
		return t, nil
	}
	return nil, fmt.Errorf("store %s: another agent writes into it: %w", s.dir, ErrReadOnly)
}

// rename moves what a temporary file, or another name in the store, holds to its
// place; in a shared store through the fence.
func (s *Store) rename(from, to string) error {
	if !s.shared {
		return os.Rename(from, to)
	}
	t, err := s.now()
	if err != nil {
		return err
	}
	if filepath.Dir(from) != t.dir {
		inside := t.temp()
		if err := os.Rename(from, inside); err != nil {
			return t.fenced(err)
		}
		from = inside
	}
	return t.fenced(os.Rename(from, to))
}

// removeAll removes a file, a link or a folder with all that is in it; nothing
// there is no error. In a shared store it goes through the fence.
func (s *Store) removeAll(path string) error {
	if !s.shared {
		return os.RemoveAll(path)
	}
	t, err := s.now()
	if err != nil {
		return err
	}
	// What is open somewhere leaves a name behind on NFS, which must not be in a
	// folder that the next writer has to remove.
	trash := filepath.Join(s.dir, trashDir, fmt.Sprintf("%d-%s", t.epoch, filepath.Base(t.temp())))
	err = s.rename(path, trash)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrFenced) {
		if _, missing := os.Lstat(path); errors.Is(missing, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(trash)
}

// removeIfExists removes a file or link, or whatever is in its place; nothing there is
// fine.
func (s *Store) removeIfExists(path string) error { return asStoreError(s.removeAll(path)) }

// moveOver is rename for a file, also where somebody put a folder in its place.
func (s *Store) moveOver(from, to string) error {
	err := s.rename(from, to)
	if errors.Is(err, fs.ErrExist) {
		if err = s.removeAll(to); err == nil {
			err = s.rename(from, to)
		}
	}
	return err
}

// emptyTrash removes what a crash left of removals in a shared store. Two writers
// may do so at once: it is rubbish for both.
func (s *Store) emptyTrash() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, trashDir))
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, trashDir, e.Name())))
	}
	return err
}

// replaceLink makes link a symlink to target, atomically unless a directory is
// in its place.
func (s *Store) replaceLink(target, link string) error {
	have, err := os.Readlink(link)
	if err == nil && have == target {
		return nil
	}
	if s.shared {
		return asStoreError(s.replaceLinkShared(target, link))
	}
	if errors.Is(err, fs.ErrNotExist) {
		// A new name appears at once anyway.
		if err := os.Symlink(target, link); !errors.Is(err, fs.ErrExist) {
			return asStoreError(err)
		}
	}
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		if err := os.RemoveAll(link); err != nil {
			return asStoreError(err)
		}
	}
	for i := range 100 {
		tmp := filepath.Join(filepath.Dir(link), fmt.Sprintf("%s%s-%d-%d", tempPrefix, filepath.Base(link)[:min(len(filepath.Base(link)), 64)], os.Getpid(), i))
		err := os.Symlink(target, tmp)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return asStoreError(err)
		}
		if err := os.Rename(tmp, link); err != nil {
			_ = os.Remove(tmp) // best effort: gc collects what stays
			return asStoreError(err)
		}
		return nil
	}
	return fmt.Errorf("replace link %s: too many leftovers of earlier tries beside it; run stoker gc", link)
}

// replaceLinkShared is replaceLink in a shared store: a link that is new comes
// through the fence, too.
func (s *Store) replaceLinkShared(target, link string) error {
	t, err := s.now()
	if err != nil {
		return err
	}
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		if err := s.removeAll(link); err != nil {
			return err
		}
	}
	tmp := t.temp()
	if err := os.Symlink(target, tmp); err != nil {
		return t.fenced(err)
	}
	if err := s.rename(tmp, link); err != nil {
		_ = os.Remove(tmp) // best effort: it goes with the term's folder
		return err
	}
	return nil
}

// moveIn gives a transferred file its blob's name. In a shared store its old name
// stays until it has the new one: what is in the term's folder goes with the term.
func (s *Store) moveIn(from, to string) error {
	if !s.shared {
		return os.Rename(from, to)
	}
	t, err := s.now()
	if err != nil {
		return err
	}
	tmp := t.temp()
	if err := os.Link(from, tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return t.fenced(err)
		}
		return s.rename(from, to) // a file system without links
	}
	if err := s.rename(tmp, to); err != nil {
		_ = os.Remove(tmp) // best effort: a second name would cost the transfer
		return err
	}
	return s.removeIfExists(from)
}

// WriteAgentFile replaces a file of the agent's memory, which survives a power cut
// then. In a shared store only the writer has one.
func (s *Store) WriteAgentFile(name string, data []byte) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	if err := s.writeFile(s.AgentFile(name), data, true); err != nil {
		return fmt.Errorf("write %s: %w", s.AgentFile(name), err)
	}
	return nil
}
