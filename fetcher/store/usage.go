package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Usage is how full the store's file system is, in bytes.
type Usage struct {
	// FreeBytes is what this process may still write.
	FreeBytes int64 `json:"freeBytes"`
	// TotalBytes is the file system's size.
	TotalBytes int64 `json:"totalBytes"`
	// StoreBytes is what blobs and transfers under way take.
	StoreBytes int64 `json:"storeBytes"`
	// ReadOnly says that nothing can be written to the file system.
	ReadOnly bool `json:"readOnly,omitempty"`
}

// FileSystem asks the store's file system how full it is; StoreBytes is not
// filled.
func (s *Store) FileSystem() (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return Usage{}, fmt.Errorf("measure store %s: %w", s.dir, err)
	}
	return Usage{FreeBytes: int64(st.Bavail) * st.Bsize, TotalBytes: int64(st.Blocks) * st.Bsize, ReadOnly: s.readOnly(&st)}, nil
}

// Usage measures the store: its file system, and the sizes of blobs and
// transfers under way.
func (s *Store) Usage() (Usage, error) {
	u, err := s.FileSystem()
	if err != nil {
		return Usage{}, err
	}
	for _, dir := range []string{"blobs/sha256", "partial", "agent/quarantine"} {
		err := filepath.WalkDir(filepath.Join(s.dir, dir), func(_ string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				u.StoreBytes += diskBytes(info)
			}
			return nil
		})
		if err != nil {
			return Usage{}, fmt.Errorf("measure store %s: %w", s.dir, err)
		}
	}
	return u, nil
}
