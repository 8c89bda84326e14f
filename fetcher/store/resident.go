package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnmeasurable says that nobody can tell what the page cache holds of a file:
// the kernel does not, or its answer is known to be about something else.
var ErrUnmeasurable = errors.New("what the page cache holds of it cannot be told")

// minWindow is how much of a file mincore is asked for at a time: 16 KiB of
// answer.
const minWindow = 64 << 20

// Resident is how many bytes of a blob the page cache holds, whichever process or
// pod has brought them in. It reads a byte of a blob of which there is nothing, to
// tell that from a cache that cannot be seen.
//
// ErrUnmeasurable says that it cannot be told; ErrUnverified that there is no such
// blob, or no regular file; other errors are as [Store.Scrub] has them.
func (s *Store) Resident(ctx context.Context, sha256Hex string) (int64, error) {
	if err := errors.Join(ctx.Err(), checkSHA256(sha256Hex)); err != nil {
		return 0, err
	}
	f, info, err := s.openBlob(sha256Hex)
	if err != nil {
		return 0, err
	}
	n, err := residentBytes(int(f.Fd()), info)
	if err = errors.Join(s.judge(ctx, sha256Hex, info, err), f.Close()); err != nil {
		return 0, fmt.Errorf("measure blob %s: %w", sha256Hex, err)
	}
	return n, nil
}

// openBlob opens a blob that is a regular file; ErrUnverified if it is not.
func (s *Store) openBlob(sha256Hex string) (*os.File, fs.FileInfo, error) {
	// A link or a pipe may have taken its place.
	f, err := s.openToRead(s.BlobPath(sha256Hex), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, nil, fmt.Errorf("blob %s is missing: %w", sha256Hex, ErrUnverified)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("blob %s is no regular file: %w", sha256Hex, ErrUnverified)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// judge decides what an error of reading a blob means, as blame does; one that is
// the blob's own takes the trust in it away.
func (s *Store) judge(ctx context.Context, sha256Hex string, info fs.FileInfo, err error) error {
	if err == nil || errors.Is(err, ErrUnmeasurable) || ctx.Err() != nil {
		return err
	}
	err = s.blame(err)
	if errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnverified) {
		err = errors.Join(err, s.distrust(ctx, sha256Hex, info))
	}
	return err
}

// residentBytes measures a whole file, and makes sure that its cache can be seen.
func residentBytes(fd int, info fs.FileInfo) (int64, error) {
	if info.Size() == 0 {
		return 0, nil
	}
	n, err := residentIn(fd, info, 0, info.Size())
	if err != nil || n > 0 {
		return n, err
	}
	// Nothing is there, or nothing can be seen: what was just read must be.
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) // not to read ahead; it is advice
	if _, err := pread(fd, make([]byte, 1), 0); err != nil {
		return 0, err
	}
	n, err = residentIn(fd, info, 0, min(info.Size(), int64(os.Getpagesize())))
	if err == nil && n == 0 {
		err = fmt.Errorf("its file system does not keep what is read where the kernel looks for it: %w", ErrUnmeasurable)
	}
	return n, err
}

// residentIn measures a part of a file: by cachestat (Linux 6.5), which looks at
// the cache of the very inode that was opened, and so at the wrong one where one
// file system is laid over another; then, or where there is none, by mincore.
func residentIn(fd int, info fs.FileInfo, off, n int64) (int64, error) {
	bytes, err := cachestat(fd, off, n)
	switch {
	case err == nil && bytes > 0:
		return bytes, nil
	case err == nil, errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP):
		// EPERM: not this process's file, or a sandbox that does not know the call.
		return minResident(fd, info, off, n, err == nil)
	}
	return 0, err
}

func cachestat(fd int, off, n int64) (int64, error) {
	var st unix.Cachestat_t
	err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0)
	return min(int64(st.Cache)*int64(os.Getpagesize()), n), err
}

// minResident asks mincore, which says of files that the caller neither owns nor
// may write that all of it is there. known says that cachestat has found nothing.
func minResident(fd int, info fs.FileInfo, off, n int64, known bool) (int64, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case known && (!ok || st.Uid != uint32(os.Geteuid())):
		return 0, nil
	case !ok || st.Uid != uint32(os.Geteuid()):
		return 0, fmt.Errorf("its owner is another user, of whose files the kernel does not tell: %w", ErrUnmeasurable)
	}
	page := int64(os.Getpagesize())
	var resident int64
	for at := off / page * page; at < off+n; at += minWindow {
		pages, err := mincore(fd, at, int(min(minWindow, off+n-at)))
		if err != nil {
			return 0, fmt.Errorf("it cannot be mapped: %w", ErrUnmeasurable)
		}
		for _, p := range pages {
			resident += int64(p&1) * page
		}
	}
	return min(resident, n), nil
}
