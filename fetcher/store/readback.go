package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// readBack compares a transfer, which is synced, with its digest as another machine
// would read it: where the file system is not [Volume.Local], and where another
// writer has begun the transfer, who may still have the file open and write into it
// late what it had received. What comes before the reading is judged by it, what
// comes after shows in the file's time, which is taken before, and takes the label
// away. ErrLost.
func (g *Staging) readBack(ctx context.Context, p *Partial, sha256Hex string) error {
	if p.volume.Local && !p.foreign {
		return nil
	}
	if err := p.Sync(); err != nil {
		return err
	}
	info, got, err := g.store.hashWritten(ctx, p.path, p.size)
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	if got == sha256Hex {
		p.judged = info
		return nil
	}
	if p.foreign {
		return &worded{ErrLost, fmt.Sprintf("content with sha256 %s is another by now: another agent had begun it, and may have written into it late", sha256Hex)}
	}
	return p.volume.lost("content with sha256 " + sha256Hex)
}

// hashWritten hashes a file as whoever reads it for the first time would, and
// returns how it looked before. Of one of more than most bytes it reads no more than
// that tells. The page cache holds it afterwards, as it holds what was written to a
// local disk.
func (s *Store) hashWritten(ctx context.Context, path string, most int64) (info fs.FileInfo, sha256Hex string, err error) {
	f, info, err := s.openWritten(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	buf := s.takeBuffer()
	defer s.buffers.Put(buf)
	sha256Hex, err = hashReader(ctx, &bounded{f, most}, *buf, nil)
	return info, sha256Hex, err
}

// openWritten opens a file that is synced so that what is read comes from where it
// is kept, and returns how it looks now: its pages are taken out of the page cache,
// or, where some stay, it is to be read past it into buffers of whole pages.
func (s *Store) openWritten(path string) (*os.File, fs.FileInfo, error) {
	f, info, err := s.openRegular(path, 0) // anew: on a network, that looks whether others have written
	if err != nil {
		return nil, nil, err
	}
	if evict(f, info.Size()) {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // advice
		return f, info, nil
	}
	if err := f.Close(); err != nil {
		return nil, nil, err
	}
	f, _, err = s.openRegular(path, unix.O_DIRECT)
	if err != nil {
		return nil, nil, fmt.Errorf("its pages stay in the page cache, and past it: %w", err)
	}
	return f, info, nil
}

// readBackFile is readBack for a file that is synced and small enough to be here.
func (s *Store) readBackFile(path string, content []byte) error {
	if s.isLocal() {
		return nil
	}
	f, _, err := s.openWritten(path)
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	defer f.Close()
	buf := s.takeBuffer()
	defer s.buffers.Put(buf)
	for left := content; ; {
		n, err := f.Read(*buf)
		if n > len(left) || !bytes.Equal((*buf)[:n], left[:n]) || errors.Is(err, io.EOF) && n < len(left) {
			return volumeAt(s.dir).lost(fmt.Sprintf("a file of %d bytes", len(content)))
		}
		left = left[n:]
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read back what was written: %w", err)
		}
	}
}

// evictAtOnce is how many bytes of a file are looked for in the page cache at a
// time.
const evictAtOnce = 256 << 20

// evict takes the first size bytes of a file, which are synced, out of the page
// cache, and reports whether none of them is in it any more: what is read then
// comes from where the file is kept. A file of which there can be no page in the
// cache, since it cannot be mapped, is out of it.
func evict(f *os.File, size int64) bool {
	fd := int(f.Fd())
	for off := int64(0); off < size; off += evictAtOnce {
		n := min(size-off, evictAtOnce)
		// Pages that are being read ahead, or written, stay the first time.
		gone := false
		for range 3 {
			if unix.Fadvise(fd, off, n, unix.FADV_DONTNEED) != nil {
				return false
			}
			pages, err := mincore(fd, off, int(n))
			if errors.Is(err, unix.ENODEV) {
				return true
			}
			if gone = err == nil && !slices.ContainsFunc(pages, func(p byte) bool { return p&1 != 0 }); gone {
				break
			}
			if unix.Fdatasync(fd) != nil {
				return false
			}
		}
		if !gone {
			return false
		}
	}
	return true
}
