package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity tells whether the directory that is at the store's path is the one
// that was opened.
type identity struct {
	device, inode uint64
	// id is a text of the store's own, under agent: a file system that is mounted
	// again may get another device number. Empty if it has none.
	id string
}

// idFile holds the identity's text, under agent.
const idFile = "store-id"

// layout are the folders of a store, in the order in which they are made.
func layout() []string {
	return []string{
		"agent", "blobs", "blobs/sha256", "partial", "models", "manifests", "status", "agent/locks", "agent/pulls",
		"agent/progress", "agent/verified", "agent/quarantine", "agent/withdrawn", "hub",
	}
}

// Ensure opens a store of [OpenLater]. After that it looks whether the store is where it was when it was opened, and makes
// again what is missing of its folders, or what pods may not read of them.
// ErrVanished says that it is not there: its directory is gone, or its path
// leads to another file system, as after unmounting. Nothing is written then.
// A directory on the same device that was emptied, or deleted and made anew, is
// the store, with nothing in it. A store that is opened only to be read is not
// changed.
func (s *Store) Ensure(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// One at a time: two that open the same store would each give it an id.
	s.ensuring.Lock()
	defer s.ensuring.Unlock()
	s.mu.Lock()
	was := s.identity
	s.mu.Unlock()
	if was == (identity{}) && s.writable && !s.shared {
		return s.open()
	}
	if s.shared || s.sealed {
		if err := s.checkFormat(); err != nil {
			return err
		}
		if was == (identity{}) {
			return s.remember()
		}
	}
	now, err := identify(s.dir)
	if err != nil {
		return err
	}
	if now.device != was.device {
		if now.id, err = s.readID(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at store %s: %w", s.dir, err)
		}
		if was.id == "" || now.id != was.id {
			return &worded{ErrVanished, fmt.Sprintf("%s is on another file system than when the store was opened: the store's volume is gone; mount it again, or restart to begin a store there", s.dir)}
		}
		s.probe.Lock()
		s.volume = nil // it may have been mounted otherwise
		s.probe.Unlock()
	}
	if now.id = was.id; now.id == "" && s.shared {
		now.id, _ = s.readID() // the writer may have given it one since
	}
	if s.canWrite() {
		if now.id, err = s.restoreLayout(was.id); err != nil {
			return fmt.Errorf("restore the folders of store %s: %w", s.dir, asStoreError(err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = now
	return nil
}

// identify looks at the directory at path; the id is not read.
func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), err == nil && !info.IsDir():
		return identity{}, &worded{ErrVanished, fmt.Sprintf("there is no directory %s: the store's volume is gone; mount it again, or make the directory", path)}
	case err != nil:
		return identity{}, fmt.Errorf("look at store: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, nil // every directory is the same, where they cannot be told apart
	}
	// Mounted into a container, what was deleted outside stays until the end. Some
	// file systems count no links at all.
	if st.Nlink == 0 && isDead(path) {
		return identity{}, &worded{ErrVanished, fmt.Sprintf("%s was deleted under this process; make it again and restart", path)}
	}
	return identity{device: uint64(st.Dev), inode: st.Ino}, nil //nolint:unconvert // 32 bits on some machines
}

// isDead says that a directory has no name any more, so that nothing can be made
// in it.
func isDead(dir string) bool {
	f, err := openDir(dir, 0)
	if err != nil {
		return false
	}
	_, err = f.Readdirnames(1)
	return errors.Join(f.Close(), err) != nil && errors.Is(err, fs.ErrNotExist)
}

// remember takes the directory for the store's own from now on.
func (s *Store) remember() error {
	now, err := identify(s.dir)
	if err != nil {
		return err
	}
	if now.id, err = s.readID(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		now.id = "" // it is needed only when the device changes
	}
	if now.id == "" && s.canWrite() {
		if now.id, err = s.writeID(rand.Text()); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = now
	return nil
}

func (s *Store) readID() (string, error) {
	text, err := s.readSmall(s.AgentFile(idFile), maxNote)
	return strings.TrimSpace(string(text)), err
}

// writeID gives the store an id, if it has none; a full or read-only file system
// takes none, and does without.
func (s *Store) writeID(id string) (string, error) {
	err := s.writeFile(s.AgentFile(idFile), []byte(id+"\n"), true)
	if errors.Is(err, ErrNoSpace) || errors.Is(err, ErrReadOnly) {
		return "", nil
	}
	return id, err
}

// restoreLayout makes the folders that are missing, and lets pods read those
// that are there; it returns the store's id.
func (s *Store) restoreLayout(id string) (string, error) {
	for _, dir := range append([]string{"."}, layout()...) {
		if err := s.restoreFolder(filepath.Join(s.dir, dir)); err != nil {
			return "", err
		}
	}
	// Which models are published can only be told if these can be read.
	names, err := s.Names()
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if err := s.restoreFolder(s.manifestDir(name)); err != nil {
			return "", err
		}
	}
	if id == "" {
		return "", nil
	}
	if _, err := s.readID(); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
		return id, err
	}
	return s.writeID(id)
}

func (s *Store) restoreFolder(dir string) error {
	info, err := os.Lstat(dir)
	if err == nil && info.IsDir() && shown(info, shownDir) {
		return nil
	}
	if dir == s.dir {
		err = openToAll(dir, true) // it may be a link, and is never made here
	} else {
		err = makeRealDir(dir, true)
	}
	if real, seeErr := isRealDir(dir); seeErr == nil && real && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) {
		return nil // it is there; that pods may not read it, Check tells
	}
	return err
}

// readOnly says whether the file system has become one that nothing can be
// written to. An ext4 that found an error does not say so of itself.
func (s *Store) readOnly(st *unix.Statfs_t) bool {
	if st.Flags&unix.ST_RDONLY != 0 {
		return true
	}
	if !s.canWrite() {
		return false
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	return errors.Is(unix.UtimesNanoAt(unix.AT_FDCWD, s.AgentFile("."), now, 0), unix.EROFS) //nolint:forbidigo // a time says nothing
}
