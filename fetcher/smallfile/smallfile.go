// Package smallfile reads files that are expected to be small: manifests, records,
// tokens, lists. Somebody else may have put something in their place, so that a read
// neither waits for a pipe, nor takes a device or more bytes than the caller expects.
//
// It is not for weights, and not for files of /proc, which have no size.
package smallfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxCredential is more than any file of credentials has, in bytes.
const MaxCredential = 1 << 20

// ErrUnusable is a file that is not what is expected in its place: a link, a pipe, a
// socket, a device or a directory, a file that is too large, or another user's. The
// error names it.
var ErrUnusable = errors.New("not usable")

// unusable is an ErrUnusable in a sentence of its own.
type unusable struct{ text string }

func (u *unusable) Error() string { return u.text }
func (u *unusable) Unwrap() error { return ErrUnusable }

func refuse(path, format string, args ...any) error {
	return &unusable{path + " " + fmt.Sprintf(format, args...)}
}

// Opener opens a file as os.OpenFile does.
type Opener func(path string, flags int, mode fs.FileMode) (*os.File, error)

// Read returns the content of a regular file of at most limit bytes. It follows
// links: Kubernetes mounts Secrets and ConfigMaps through them.
func Read(path string, limit int64) ([]byte, error) {
	f, info, err := open(path, 0, os.OpenFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, info, limit)
}

// Check returns ErrUnusable for the first of the files that Read would not take, for
// callers that have a library read them. It skips empty names, and leaves all other
// errors to the library.
func Check(limit int64, paths ...string) error {
	for _, path := range paths {
		if path == "" {
			continue
		}
		if _, err := Read(path, limit); errors.Is(err, ErrUnusable) {
			return err
		}
	}
	return nil
}

// ReadOwned is Read for a folder into which others may have written: it follows no
// link in the file's own place, and takes only a file whose owner's uid may passes. The
// file is opened by opener.
func ReadOwned(path string, limit int64, opener Opener, may func(uid uint32) bool) ([]byte, error) {
	f, info, err := open(path, unix.O_NOFOLLOW, opener)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if uid, ok := Owner(info); ok && !may(uid) {
		return nil, refuse(path, "belongs to uid %d, who may not write there", uid)
	}
	return readAll(f, info, limit)
}

// Open opens a regular file to read it, following links. It never waits for the
// other end of a pipe.
func Open(path string) (*os.File, error) {
	f, _, err := open(path, 0, os.OpenFile)
	return f, err
}

// Owner returns the uid of the user to whom a file belongs, where that is known.
func Owner(info fs.FileInfo) (uid uint32, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

func open(path string, flags int, opener Opener) (*os.File, fs.FileInfo, error) {
	f, err := opener(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
	switch {
	case errors.Is(err, unix.ELOOP) && flags&unix.O_NOFOLLOW != 0:
		return nil, nil, refuse(path, "is a symlink, not a regular file")
	case errors.Is(err, unix.ENXIO): // a socket, or a device that is not there
		return nil, nil, refuse(path, "is no regular file")
	case err != nil:
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse(path, "is %s, not a regular file", Kind(info.Mode()))
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// readAll reads at most limit bytes, whatever the file grows to meanwhile.
func readAll(f *os.File, info fs.FileInfo, limit int64) ([]byte, error) {
	if info.Size() > limit {
		return nil, refuse(f.Name(), "has %d bytes, and at most %d are read", info.Size(), limit)
	}
	data := make([]byte, 0, info.Size()+1) // one more, to see the end
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > limit:
			return nil, refuse(f.Name(), "has more than %d bytes", limit)
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, err
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

// Kind names what a file is that is not a regular one.
func Kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symlink"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}
