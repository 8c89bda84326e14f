package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// blame decides what an error of reading one thing means. If the volume answers
// otherwise, it is the thing's own: it is as good as damaged (ErrCorrupt), and
// trying again for ever would not mend it. So is what this process may not read:
// pods may not either. A file server that exports nothing any more lets nobody read
// anything, which is the volume's fault.
func (s *Store) blame(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrCorrupt):
		return err
	case !unreadable(err) && !errors.Is(err, fs.ErrPermission), s.answers() != nil:
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrCorrupt)
}

// unreadable says that a disk or a file system cannot produce what it holds, or that
// links lead nowhere.
func unreadable(err error) bool {
	for _, errno := range []unix.Errno{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.ENODATA, unix.EILSEQ, unix.EREMOTEIO, unix.ELOOP} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// MayPass reports whether an error of the store may be gone when the same work is
// begun anew, with files opened and locks taken again. Across a network that is so
// for a server that restarted: one that lost its clients' locks has their writes
// fail with EIO, and may give a file another time than it had been seen with.
func (s *Store) MayPass(err error) bool {
	if s.isLocal() {
		return false
	}
	for _, passing := range []error{unix.EIO, unix.ESTALE, unix.ENOLCK, unix.ETIMEDOUT, unix.EREMOTEIO, ErrUnverified} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// FailureHint says what to do about an error of reading or writing the store.
func (s *Store) FailureHint() string {
	if s.isLocal() {
		return "check the store's disk"
	}
	return fmt.Sprintf("the store is on %s: ask whoever runs the file server whether it restarted, or lost its clients' locks", volumeAt(s.dir))
}

// answers says, with an error if not, whether the volume writes and reads: a new
// file, or, where none can be written, a manifest.
func (s *Store) answers() error {
	if s.canWrite() {
		err := s.writesAndReads()
		if err == nil || !errors.Is(err, ErrReadOnly) && !errors.Is(err, ErrNoSpace) {
			return err
		}
	}
	manifests, err := filepath.Glob(filepath.Join(s.dir, "manifests", "*", "*.json"))
	if err != nil {
		return err
	}
	err = errors.New("there is no manifest to read")
	for _, path := range manifests {
		if err = s.readFromDisk(path); err == nil {
			return nil
		}
	}
	return fmt.Errorf("read store %s: %w", s.dir, err)
}

func (s *Store) writesAndReads() (err error) {
	f, err := s.tempFile(s.AgentFile(""))
	if err != nil {
		return asStoreError(err)
	}
	defer func() { err = errors.Join(err, dropTemp(f.Name())) }()
	_, err = f.WriteString("answer\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return asStoreError(err)
	}
	return s.readFromDisk(f.Name())
}

// readFromDisk reads a small file, if possible not from the page cache.
func (s *Store) readFromDisk(path string) error {
	f, _, err := s.openRegular(path, 0)
	if err != nil {
		return err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // advice
	_, err = f.Read(make([]byte, 1))
	return errors.Join(err, f.Close())
}
