package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// WarmPiece is how many bytes one call of [Store.Warm] covers at most. It is read
// without a pause, so that what the kernel reads ahead meanwhile is a small part.
const WarmPiece = 16 << 20

// Reading is how long it took to read from the disk: the time within the calls
// that read, whatever was waited for between them.
type Reading struct {
	// Bytes that came from the disk and not from the page cache; 0 where that is
	// not certain. What is below the file system may have a cache of its own.
	Bytes int64
	Took  time.Duration
}

// Warmed is what a call of [Store.Warm] did.
type Warmed struct {
	// Next is where to go on; Done says that the blob ends there.
	Next int64
	Done bool
	// Read is how many bytes were read: 0 where all of them were in memory.
	Read int64
	// Cold is how long the disk took, as far as that was certain.
	Cold Reading
}

// Warm brings the piece of a blob that begins at off into the page cache, if not
// all of it is there: it is read in order, in large blocks. What is brought in is
// charged to the memory limit of the process's cgroup, and leaves again when that
// is reached. Nothing is open between two calls, and no digest is computed.
//
// Errors are as [Store.Scrub] has them, and [ErrUnmeasurable]: then nothing was
// read.
func (s *Store) Warm(ctx context.Context, sha256Hex string, off int64) (Warmed, error) {
	if err := errors.Join(ctx.Err(), checkSHA256(sha256Hex)); err != nil {
		return Warmed{Next: off}, err
	}
	w, err := s.warmPiece(ctx, sha256Hex, off)
	if err != nil {
		return w, fmt.Errorf("warm blob %s at %d: %w", sha256Hex, w.Next, err)
	}
	return w, nil
}

func (s *Store) warmPiece(ctx context.Context, sha256Hex string, off int64) (w Warmed, err error) {
	w.Next = off
	f, info, err := s.openBlob(sha256Hex)
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fd, end := int(f.Fd()), min(off+WarmPiece, info.Size())
	before := int64(0)
	if off < end {
		if before, err = residentIn(fd, info, off, end-off); err != nil {
			return w, err
		}
	}
	if off >= end || before >= end-off {
		w.Next, w.Done = max(off, end), end >= info.Size()
		return w, nil
	}
	_ = unix.Fadvise(fd, off, end-off, unix.FADV_SEQUENTIAL) // a file system without advice has its reasons
	buf := s.takeBuffer()
	defer s.buffers.Put(buf)
	for w.Next < end {
		if err := ctx.Err(); err != nil {
			return w, err
		}
		began := time.Now()
		n, err := pread(fd, (*buf)[:min(int64(len(*buf)), end-w.Next)], w.Next)
		w.Cold.Took += time.Since(began)
		if err != nil {
			return w, s.judge(ctx, sha256Hex, info, err)
		}
		if n == 0 {
			return w, fmt.Errorf("it ends at %d: %w", w.Next, ErrUnverified)
		}
		w.Next, w.Read = w.Next+int64(n), w.Read+int64(n)
	}
	w.Done = w.Next >= info.Size()
	// Where much was there before, the calls say little of the disk.
	if before <= w.Read/16 {
		w.Cold.Bytes = w.Read - before
	} else {
		w.Cold = Reading{}
	}
	return w, nil
}
