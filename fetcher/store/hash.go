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
)

// hashBlob reads a whole blob and says whether its content is its name: then it
// is recorded as right, if the store is writable. One of more than most bytes is not
// read, and is ErrCorrupt: it could be without an end. Where the file system is not
// [Volume.Local], or the blob was found wrong before, it is read past the page
// cache, as other machines would read it. What was judged is returned
// also with ErrCorrupt, nil if there was nothing. onRead, if not nil, is told
// the bytes of each read.
func (s *Store) hashBlob(ctx context.Context, sha256Hex string, most int64, onRead func(int)) (fs.FileInfo, error) {
	info, err := s.blobInfo(sha256Hex)
	if err != nil {
		found, statErr := os.Lstat(s.BlobPath(sha256Hex))
		if statErr != nil {
			found = nil
		}
		return found, err
	}
	// A link or a pipe may take the blob's place after the look at it.
	f, err := s.openToRead(s.BlobPath(sha256Hex), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is missing: %w", sha256Hex, errMissing)
	}
	if err != nil {
		return info, fmt.Errorf("open blob %s: %w", sha256Hex, s.blame(err))
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return info, fmt.Errorf("blob %s is no regular file: %w", sha256Hex, ErrCorrupt)
	}
	if info.Size() > most {
		return info, fmt.Errorf("blob %s has %d bytes, should have %d: %w", sha256Hex, info.Size(), most, ErrCorrupt)
	}
	var content io.Reader = &bounded{f, most} // it may grow meanwhile
	buf := s.takeBuffer()
	defer s.buffers.Put(buf)
	if r, err := s.readRecord(sha256Hex); err == nil && r.Distrusted || s.doubts(sha256Hex, info) || !s.isLocal() {
		content = &diskReader{store: s, path: f.Name(), info: info}
	}
	got, err := hashReader(ctx, content, *buf, onRead)
	if err != nil {
		return info, fmt.Errorf("read blob %s: %w", sha256Hex, s.blame(err))
	}
	if got != sha256Hex {
		return info, fmt.Errorf("blob %s holds content with sha256 %s: %w", sha256Hex, got, ErrCorrupt)
	}
	if !s.canWrite() {
		return info, nil
	}
	// Removed meanwhile, and perhaps pulled again: a record of the old file would say
	// that the new one was changed.
	if now, err := os.Lstat(f.Name()); err != nil || !os.SameFile(now, info) {
		return nil, fmt.Errorf("blob %s is missing: it was removed while it was read: %w", sha256Hex, errMissing)
	}
	// Not before: what is not right is nobody's to read.
	if err := s.showBlob(sha256Hex, info); err != nil {
		return info, err
	}
	return info, s.writeRecord(sha256Hex, info)
}

// bounded ends after more than left bytes. Other than io.LimitedReader, it asks for
// whole buffers, as direct reads have to.
type bounded struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// hashReader hashes r to its end.
func hashReader(ctx context.Context, r io.Reader, buf []byte, onRead func(int)) (string, error) {
	h := sha256.New()
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
