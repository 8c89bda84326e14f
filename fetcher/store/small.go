package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// How much is read of the store's small files, in bytes: of a list of a model's files
// (200,000 of them), of the agent's memory, and of anything else.
const (
	maxList   = 64 << 20
	maxMemory = 16 << 20
	maxNote   = 1 << 20
)

// readSmall reads a small file of the store. Anything but a regular file of a user
// who writes into the store is ErrCorrupt, and so is one of more than limit bytes.
// Another client of a network file system may replace the file meanwhile: the one that
// was opened is stale then, and its name leads to the new one.
func (s *Store) readSmall(path string, limit int64) ([]byte, error) {
	data, err := smallfile.ReadOwned(path, limit, s.openFile, s.mayOwn)
	if errors.Is(err, unix.ESTALE) {
		data, err = smallfile.ReadOwned(path, limit, s.openFile, s.mayOwn)
	}
	return data, corruptIfUnusable(err)
}

func corruptIfUnusable(err error) error {
	if errors.Is(err, smallfile.ErrUnusable) {
		return &worded{ErrCorrupt, err.Error()}
	}
	return err
}

// readJSON decodes a small file; ErrCorrupt.
func (s *Store) readJSON(path string, limit int64, v any) error {
	data, err := s.readSmall(path, limit)
	if err != nil {
		return err
	}
	return unmarshal(path, data, v)
}

// mayOwn reports whether files of this user may be used and written: root's, this
// process's, and those of the owner of the store, or of its folder agent. A server
// that squashes root gives its files to another user, and the store's directory may
// be root's there.
func (s *Store) mayOwn(uid uint32) bool {
	if uid == 0 || uid == uint32(os.Geteuid()) {
		return true
	}
	if info, err := os.Stat(s.dir); err == nil { // it may be a link
		if owner, ok := smallfile.Owner(info); ok && owner == uid {
			return true
		}
	}
	info, err := os.Lstat(s.AgentFile(""))
	if err != nil || !info.IsDir() {
		return false
	}
	owner, ok := smallfile.Owner(info)
	return ok && owner == uid
}

// ReadAgentFile reads a file of the agent's memory, which is at [Store.AgentFile] and
// has 16 MiB at most. A file that the agent cannot have written is ErrCorrupt. The
// store need not be open.
func ReadAgentFile(path string) ([]byte, error) {
	s := &Store{dir: filepath.Dir(filepath.Dir(path))}
	return s.readSmall(path, maxMemory)
}

// mayChange reports whether a file may be written or given another mode: a regular
// one, of a user who writes into the store, with one name. What has a second name may
// be something else elsewhere.
func (s *Store) mayChange(info fs.FileInfo) bool {
	uid, known := smallfile.Owner(info)
	return info.Mode().IsRegular() && names(info) <= 1 && (!known || s.mayOwn(uid))
}

// names is how many names a file has; 1 where that is not known.
func names(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink) //nolint:unconvert // 32 bits on some machines
	}
	return 1
}

// misplaced reports whether opening a file to write failed because something else is
// in its place: a symlink, a directory, a socket.
func misplaced(err error) bool {
	return errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO)
}
