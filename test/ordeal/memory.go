package ordeal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Resident is which share of what a manifest publishes is in memory, asked of
// mincore for each page. It reads nothing.
func (r *Reader) Resident(manifestPath string) (float64, error) {
	data, err := os.ReadFile(manifestPath)
	if err != nil {
		return 0, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, err
	}
	var there, size int64
	seen := map[string]bool{}
	for _, f := range m.Files {
		if seen[f.SHA256] || f.Size == 0 {
			continue
		}
		seen[f.SHA256] = true
		n, err := pagesOf(filepath.Join(r.dir, "blobs", "sha256", f.SHA256), f.Size)
		if err != nil {
			return 0, err
		}
		there, size = there+n, size+f.Size
	}
	if size == 0 {
		return 1, nil
	}
	return float64(there) / float64(size), nil
}

// pagesOf is how many bytes of a file of that size are in memory.
func pagesOf(path string, size int64) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != size) {
		err = fmt.Errorf("%s is not the file that was published: %w", path, fs.ErrInvalid)
	}
	if err != nil {
		return 0, err
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	page := int64(os.Getpagesize())
	pages := make([]byte, (size+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&pages[0])))
	if err := unix.Munmap(mapped); err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, errno
	}
	for _, p := range pages {
		n += int64(p&1) * page
	}
	return min(n, size), nil
}
