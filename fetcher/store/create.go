package store

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openToWrite opens a file to write, or makes it. On NFS the client asks for no
// delegation of it (RFC 8881, 10.4), which it does for files that are opened with
// O_DIRECT: with one, the client goes on deciding about the file's modification
// time after it was closed, and everybody else who looks at the file waits for
// this client, or, if that is gone, for the end of its lease.
func (s *Store) openToWrite(path string, flags int, mode fs.FileMode) (*os.File, error) {
	if s.volumeNow().Type == "nfs4" {
		f, err := os.OpenFile(path, flags|unix.O_DIRECT, mode) //nolint:forbidigo // callers say why it does no harm
		if err == nil {
			return f, buffered(f)
		}
		if !errors.Is(err, unix.EINVAL) { // such as with O_APPEND
			return nil, err
		}
	}
	return os.OpenFile(path, flags, mode) //nolint:forbidigo // callers say why it does no harm
}

// buffered has a file that was opened with O_DIRECT use the page cache from now on.
func buffered(f *os.File) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	return err
}
