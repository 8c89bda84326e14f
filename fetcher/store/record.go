package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// record is what a blob's inode looked like when its bytes were last hashed
// and found right. As long as size, mtime and inode are the same, the bytes
// are taken to be the same; silent rot is the scrub's to find.
type record struct {
	Size       int64  `json:"size"`
	MtimeNanos int64  `json:"mtimeNanos"`
	Inode      uint64 `json:"inode"`
	// VerifiedAt is when that was found first.
	VerifiedAt time.Time `json:"verifiedAt"`
}

func (r record) matches(info fs.FileInfo) bool {
	now := recordOf(info)
	return r.Size == now.Size && r.MtimeNanos == now.MtimeNanos && r.Inode == now.Inode
}

func recordOf(info fs.FileInfo) record {
	r := record{Size: info.Size(), MtimeNanos: info.ModTime().UnixNano(), VerifiedAt: time.Now().UTC()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		r.Inode = st.Ino
	}
	return r
}

func (s *Store) recordPath(sha256Hex string) string {
	return filepath.Join(s.dir, "agent", "verified", sha256Hex+".json")
}

// writeRecord remembers that the blob's bytes are right as info shows it, which
// was taken before they were hashed. Losing a record costs a re-hash, so it is
// not synced; one that says so already is left, and a first one needs not be
// renamed into place: until it is whole nothing is known of the blob, as before.
func (s *Store) writeRecord(sha256Hex string, info fs.FileInfo) error {
	path, r := s.recordPath(sha256Hex), recordOf(info)
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, fs.ErrExist) {
		if s.checkRecord(sha256Hex, info) == nil {
			return nil
		}
		return writeJSON(path, r, false)
	}
	if err != nil {
		return asStoreError(err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Chmod(fileMode)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(asStoreError(err), removeIfExists(path))
	}
	return nil
}

// statBlob checks a blob by what stat shows: a regular file of the right size
// that has not changed since it was hashed. ErrCorrupt says what differs;
// errUnrecorded that nothing is known about an otherwise plausible blob.
func (s *Store) statBlob(sha256Hex string, size int64) error {
	info, err := s.blobInfo(sha256Hex)
	if err != nil {
		return err
	}
	if info.Size() != size {
		return fmt.Errorf("blob %s has %d bytes, should have %d: %w", sha256Hex, info.Size(), size, ErrCorrupt)
	}
	return s.checkRecord(sha256Hex, info)
}

// blobInfo is what the blob looks like: a regular file, or ErrCorrupt.
func (s *Store) blobInfo(sha256Hex string) (fs.FileInfo, error) {
	info, err := os.Lstat(s.BlobPath(sha256Hex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is missing: %w", sha256Hex, ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("blob %s is no regular file: %w", sha256Hex, ErrCorrupt)
	}
	return info, nil
}

// checkRecord says whether the blob is as it was when its bytes were right;
// errUnrecorded if that is not known.
func (s *Store) checkRecord(sha256Hex string, info fs.FileInfo) error {
	var r record
	if err := readJSON(s.recordPath(sha256Hex), &r); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("blob %s: %w", sha256Hex, errUnrecorded)
		}
		return err
	}
	if !r.matches(info) {
		return fmt.Errorf("blob %s was changed since it was verified: %w", sha256Hex, errUnrecorded)
	}
	return nil
}

// errUnrecorded is a blob whose bytes have to be hashed before they are
// trusted. It is ErrCorrupt for those who only stat.
var errUnrecorded = fmt.Errorf("its bytes are not known to be right: %w", ErrCorrupt)

// hashBlob reads a whole blob and says whether its content is its name: then it
// is recorded as right, if the store is writable. What was judged is returned
// also with ErrCorrupt, nil if there was nothing. onRead, if not nil, is told
// the bytes of each read.
func (s *Store) hashBlob(ctx context.Context, sha256Hex string, onRead func(int)) (fs.FileInfo, error) {
	info, err := s.blobInfo(sha256Hex)
	if err != nil {
		found, statErr := os.Lstat(s.BlobPath(sha256Hex))
		if statErr != nil {
			found = nil
		}
		return found, err
	}
	// A link or a pipe may take the blob's place after the look at it.
	f, err := os.OpenFile(s.BlobPath(sha256Hex), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is missing: %w", sha256Hex, ErrCorrupt)
	}
	if err != nil {
		return info, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return info, fmt.Errorf("blob %s is no regular file: %w", sha256Hex, ErrCorrupt)
	}
	got, err := hashReader(ctx, f, info.Size(), onRead)
	if err != nil {
		return info, fmt.Errorf("read blob %s: %w", sha256Hex, err)
	}
	if got != sha256Hex {
		return info, fmt.Errorf("blob %s holds content with sha256 %s: %w", sha256Hex, got, ErrCorrupt)
	}
	if !s.writable {
		return info, nil
	}
	return info, s.writeRecord(sha256Hex, info)
}

// hashReader hashes r to its end, which should come after size bytes.
func hashReader(ctx context.Context, r io.Reader, size int64, onRead func(int)) (string, error) {
	h := sha256.New()
	buf := make([]byte, min(max(size, 0)+1, 1<<20)) // one byte more than the end needs shows it
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if n > 0 && onRead != nil {
			onRead(n)
		}
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
