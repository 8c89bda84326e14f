package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// record is what a blob's inode looked like when its bytes were last hashed
// and found right. As long as size, mtime and inode are the same, the bytes
// are taken to be the same; silent rot is the scrub's to find.
type record struct {
	appearance
	// VerifiedAt is when that was found first.
	VerifiedAt time.Time `json:"verifiedAt"`
	// Distrusted says that its bytes were found wrong since: the next to hash
	// them reads them from the disk, whatever the page cache holds.
	Distrusted bool `json:"distrusted,omitempty"`
}

// appearance is what stat shows of a file, of that which changes when it is
// changed.
type appearance struct {
	Size       int64  `json:"size"`
	MtimeNanos int64  `json:"mtimeNanos"`
	Inode      uint64 `json:"inode"`
}

func (r record) matches(info fs.FileInfo) bool {
	return !r.Distrusted && r.appearance == appearanceOf(info)
}

func appearanceOf(info fs.FileInfo) appearance {
	a := appearance{Size: info.Size(), MtimeNanos: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a.Inode = st.Ino
	}
	return a
}

// recordOf is the record of a blob that was just found right.
func recordOf(info fs.FileInfo) record {
	return record{appearance: appearanceOf(info), VerifiedAt: time.Now().UTC()}
}

func (s *Store) recordPath(sha256Hex string) string {
	return filepath.Join(s.dir, "agent", "verified", sha256Hex+".json")
}

// writeRecord remembers that the blob's bytes are right as info shows it, which
// was taken before they were hashed. Losing a record costs a re-hash, so it is
// synced only when the model is published. One that says so already is left, and
// a first one needs not be renamed into place: until it is whole nothing is known
// of the blob, as before.
func (s *Store) writeRecord(sha256Hex string, info fs.FileInfo) error {
	s.believe(sha256Hex)
	defer s.records.drop(sha256Hex)
	path, r := s.recordPath(sha256Hex), recordOf(info)
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if s.shared {
		if s.checkRecord(sha256Hex, info) == nil {
			return nil
		}
		return s.writeJSON(path, r, false) // through the fence: it is a promise
	}
	f, err := s.openToWrite(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode) // one machine's store
	if errors.Is(err, fs.ErrExist) {
		if s.checkRecord(sha256Hex, info) == nil {
			return nil
		}
		return s.writeJSON(path, r, false)
	}
	if err != nil {
		return asStoreError(err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Chmod(fileMode)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(asStoreError(err), s.removeIfExists(path))
	}
	return nil
}

// statBlob checks a blob by what stat shows: a regular file of the right size
// that the world may read and that has not changed since it was hashed.
// ErrCorrupt says what differs; ErrUnverified that nothing is known about an
// otherwise plausible blob.
func (s *Store) statBlob(sha256Hex string, size int64) error {
	info, err := s.blobInfo(sha256Hex)
	if err != nil {
		return err
	}
	if info.Size() != size {
		return fmt.Errorf("blob %s has %d bytes, should have %d: %w", sha256Hex, info.Size(), size, ErrCorrupt)
	}
	if err := s.checkRecord(sha256Hex, info); err != nil {
		return err
	}
	return modeProblem(sha256Hex, info)
}

// blobInfo is what the blob looks like: a regular file, or ErrCorrupt.
func (s *Store) blobInfo(sha256Hex string) (fs.FileInfo, error) {
	info, err := os.Lstat(s.BlobPath(sha256Hex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is missing: %w", sha256Hex, errMissing)
	}
	if err != nil {
		return nil, s.blame(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("blob %s is no regular file: %w", sha256Hex, ErrCorrupt)
	}
	return info, nil
}

// readRecord reads what is known of a blob; ErrUnverified if nothing is.
func (s *Store) readRecord(sha256Hex string) (record, error) {
	path := s.recordPath(sha256Hex)
	info, err := os.Lstat(path)
	if err == nil {
		if r, ok := s.records.get(sha256Hex, info); ok {
			return r, nil
		}
	}
	s.records.drop(sha256Hex)
	var r record
	if err == nil {
		err = s.readJSON(path, maxNote, &r)
	}
	if err == nil && info.Mode().IsRegular() {
		s.records.put(sha256Hex, info, r)
	}
	if err = s.blame(err); errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("blob %s: %w", sha256Hex, ErrUnverified)
	}
	return r, err
}

// checkRecord says whether the blob is as it was when its bytes were right;
// ErrUnverified if that is not known.
func (s *Store) checkRecord(sha256Hex string, info fs.FileInfo) error {
	if s.trusts(sha256Hex, info) && !s.doubts(sha256Hex, info) {
		return nil
	}
	r, err := s.readRecord(sha256Hex)
	switch {
	case err != nil:
		return err
	case r.Distrusted || s.doubts(sha256Hex, info):
		return fmt.Errorf("blob %s was found wrong when it was read again: %w", sha256Hex, ErrUnverified)
	case !r.matches(info):
		return fmt.Errorf("blob %s was changed since it was verified: %w", sha256Hex, ErrUnverified)
	}
	return nil
}
