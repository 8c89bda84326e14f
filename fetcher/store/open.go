package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// openToRead opens a file that something else may have taken the place of: it
// follows no link and waits for no pipe. See openUnlent.
func (s *Store) openToRead(path string, flags int) (*os.File, error) {
	return s.openFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|flags, 0)
}

// openRegular is openToRead for what must be a regular file; ErrCorrupt.
func (s *Store) openRegular(path string, flags int) (*os.File, fs.FileInfo, error) {
	f, err := s.openToRead(path, flags)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: it is no regular file: %w", path, ErrCorrupt)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// openDir opens a directory, and nothing that has taken its place.
func openDir(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|flags, 0) //nolint:forbidigo // to read
}

// openToWrite opens a file to write, or makes it. See openUnlent.
func (s *Store) openToWrite(path string, flags int, mode fs.FileMode) (*os.File, error) {
	return s.openFile(path, flags, mode)
}

// Files holds the published files of one revision, for whoever reads them as they
// are. What is no regular file is [smallfile.ErrUnusable].
func (s *Store) Files(name, revision string) fs.FS {
	return smallfile.DirFS(s.Path(name, revision), s.openFile)
}

// openFile opens a file of the store as os.OpenFile does. Callers that write say why it
// does no harm.
func (s *Store) openFile(path string, flags int, mode fs.FileMode) (*os.File, error) {
	if s.lends() {
		return openUnlent(path, flags, mode)
	}
	return os.OpenFile(path, flags, mode) //nolint:forbidigo // callers say why it does no harm
}

// lends reports whether the volume's server may lend files to clients: NFS 4 does,
// and calls it a delegation (RFC 8881, 10.4).
func (s *Store) lends() bool {
	s.mu.Lock()
	device, known := s.identity.device, s.lending
	s.mu.Unlock()
	if known.on && known.device == device {
		return known.lends
	}
	lends := mountOf(s.dir).lends()
	s.mu.Lock()
	defer s.mu.Unlock()
	// Before the store was opened, its volume may not be mounted yet.
	s.lending = lending{on: s.identity != identity{}, device: device, lends: lends}
	return lends
}

// lending is what lends has found out, for as long as the store is on the device.
type lending struct {
	on, lends bool
	device    uint64
}

func (m Mount) lends() bool { return m.Type == "nfs4" }

// openUnlent opens a file on NFS without borrowing it. Who borrows a file to write
// goes on deciding about its modification time after it was closed. Who borrows it
// to read does no harm while it lives; but whoever replaces or removes a borrowed
// file, or looks at one that was borrowed to write, waits for the borrower, and where
// that machine is gone, for the end of its lease: a minute and a half by default. A
// client of Linux borrows nothing that is opened with O_DIRECT, and the page cache is
// used all the same.
func openUnlent(path string, flags int, mode fs.FileMode) (*os.File, error) {
	// The two together are refused for opening a file, not for one that is open.
	f, err := os.OpenFile(path, flags&^os.O_APPEND|unix.O_DIRECT, mode) //nolint:forbidigo // callers say why it does no harm
	if errors.Is(err, unix.EINVAL) {                                    // no regular file
		return os.OpenFile(path, flags, mode) //nolint:forbidigo // see above
	}
	if err != nil {
		return nil, err
	}
	now, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, now&^unix.O_DIRECT|flags&(unix.O_DIRECT|unix.O_APPEND))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
