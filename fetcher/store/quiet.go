package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign is what offsets, lengths and buffers are multiples of for direct
// reads: more than any disk asks for.
const directAlign = 4096

// takeBuffer returns a buffer of a piece that direct reads can use; the caller
// puts it back into s.buffers.
func (s *Store) takeBuffer() *[]byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, ScrubPiece+directAlign)
	skip := (directAlign - uintptr(unsafe.Pointer(unsafe.SliceData(b)))%directAlign) % directAlign
	b = b[skip : skip+ScrubPiece]
	return &b
}

// readQuietly reads as much of the file as there is and as goes into b, and
// leaves what is in the page cache there, and what is not, out of it. The file
// must still be the one that info shows; ErrUnverified if it is not, and
// ErrCorrupt for bytes that cannot be read although the volume answers. It tells
// how long the disk took, as far as the bytes certainly came from there.
func (s *Store) readQuietly(path string, info fs.FileInfo, off int64, b []byte) (int, Reading, error) {
	n, cold, err := s.readOnce(path, info, off, b, unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) || unsupported(err) {
		n, cold, err = s.readOnce(path, info, off, b, 0)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return 0, Reading{}, fmt.Errorf("read %s: it is gone: %w", path, ErrUnverified)
	}
	if err != nil {
		return 0, Reading{}, fmt.Errorf("read %s at %d: %w", path, off, s.blame(err))
	}
	return n, cold, nil
}

// readOnce opens the file, reads, and closes it: nothing stays open that would
// keep a volume from being unmounted.
func (s *Store) readOnce(path string, info fs.FileInfo, off int64, b []byte, direct int) (n int, cold Reading, err error) {
	// A link or a pipe may have taken its place.
	f, err := s.openToRead(path, direct)
	if err != nil {
		return 0, cold, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	now, err := f.Stat()
	if err != nil {
		return 0, cold, err
	}
	if !os.SameFile(now, info) || now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime()) {
		return 0, cold, fmt.Errorf("it changed while it was read: %w", ErrUnverified)
	}
	want := min(int64(len(b)), info.Size()-off)
	b = b[:min(int64(len(b)), (want+directAlign-1)/directAlign*directAlign)]
	fd := int(f.Fd())
	bypasses := false
	if direct != 0 {
		if bypasses, err = bypassesCache(fd); err != nil {
			return 0, cold, err
		}
	} else {
		// Without reading ahead: what was not asked for would stay.
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) // a file system without advice has its reasons
	}
	fromDisk := bypasses
	if !bypasses {
		before := cachedPages(fd, off, len(b))
		defer before.restore(fd)
		fromDisk = before.none()
	}
	began := time.Now()
	n, err = pread(fd, b, off)
	took := time.Since(began)
	switch {
	case err != nil:
		return 0, cold, err
	case n == 0:
		return 0, cold, fmt.Errorf("it ends at %d: %w", off, io.ErrUnexpectedEOF)
	}
	if n = min(n, int(want)); fromDisk {
		cold = Reading{Bytes: int64(n), Took: took}
	}
	return n, cold, nil
}

func pread(fd int, b []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, off)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// bypassesCache says whether direct reads of the file are certain to leave the
// page cache alone: some file systems take the flag and read through the cache
// all the same. EINVAL if they are certain not to.
func bypassesCache(fd int) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return false, nil //nolint:nilerr // the kernel does not tell: look at what happens
	}
	if st.Dio_offset_align == 0 || directAlign%st.Dio_offset_align != 0 || directAlign%max(st.Dio_mem_align, 1) != 0 {
		return false, unix.EINVAL
	}
	return true, nil
}

// residency is which pages of a range of a file the page cache holds.
type residency struct {
	off int64
	// pages is nil if that cannot be told.
	pages []byte
}

// cachedPages asks by mincore. cachestat would need no mapping, but looks at the
// wrong cache where one file system is laid over another.
func cachedPages(fd int, off int64, n int) residency {
	page := int64(os.Getpagesize())
	from := off / page * page
	pages, err := mincore(fd, from, int((off+int64(n)-from+page-1)/page*page))
	if err != nil {
		return residency{off: from}
	}
	return residency{off: from, pages: pages}
}

// none says that the page cache is known to have held nothing of the range.
func (r residency) none() bool {
	return r.pages != nil && !slices.ContainsFunc(r.pages, func(p byte) bool { return p&1 != 0 })
}

// restore takes the pages out of the cache that were not there before.
func (r residency) restore(fd int) {
	page := int64(os.Getpagesize())
	for i := 0; i < len(r.pages); i++ {
		from := i
		for i < len(r.pages) && r.pages[i]&1 == 0 {
			i++
		}
		if i > from {
			// It is advice: that a page stays is no error of reading.
			_ = unix.Fadvise(fd, r.off+int64(from)*page, int64(i-from)*page, unix.FADV_DONTNEED)
		}
	}
}

// mincore asks for each page of a range whether the page cache holds it: the
// lowest bit of its byte. ENODEV says that the file cannot be mapped.
func mincore(fd int, off int64, n int) ([]byte, error) {
	mapped, err := unix.Mmap(fd, off, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	pages := make([]byte, (n+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(mapped))), uintptr(n), uintptr(unsafe.Pointer(unsafe.SliceData(pages))))
	if errno != 0 {
		err = errno
	}
	return pages, errors.Join(err, unix.Munmap(mapped))
}
