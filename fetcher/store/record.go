package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	Size       int64     `json:"size"`
	MtimeNanos int64     `json:"mtimeNanos"`
	Inode      uint64    `json:"inode"`
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

// writeRecord remembers that the blob's bytes are right as it lies now. Losing
// a record costs a re-hash, so it is not synced.
func (s *Store) writeRecord(sha256Hex string) error {
	info, err := os.Lstat(s.BlobPath(sha256Hex))
	if err != nil {
		return err
	}
	return writeJSON(s.recordPath(sha256Hex), recordOf(info), false)
}

// statBlob checks a blob by what stat shows: a regular file of the right size
// that has not changed since it was hashed. ErrCorrupt says what differs;
// errUnrecorded that nothing is known about an otherwise plausible blob.
func (s *Store) statBlob(sha256Hex string, size int64) error {
	info, err := os.Lstat(s.BlobPath(sha256Hex))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s is missing: %w", sha256Hex, ErrCorrupt)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("blob %s is no regular file: %w", sha256Hex, ErrCorrupt)
	}
	if info.Size() != size {
		return fmt.Errorf("blob %s has %d bytes, should have %d: %w", sha256Hex, info.Size(), size, ErrCorrupt)
	}
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

// hashBlob reads a whole blob and says whether its content is its name.
// onRead, if not nil, is told the bytes of each read.
func (s *Store) hashBlob(ctx context.Context, sha256Hex string, onRead func(int)) error {
	f, err := os.Open(s.BlobPath(sha256Hex))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s is missing: %w", sha256Hex, ErrCorrupt)
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	got, err := hashReader(ctx, f, onRead)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", sha256Hex, err)
	}
	if got != sha256Hex {
		return fmt.Errorf("blob %s holds content with sha256 %s: %w", sha256Hex, got, ErrCorrupt)
	}
	return nil
}

func hashReader(ctx context.Context, r io.Reader, onRead func(int)) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
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
