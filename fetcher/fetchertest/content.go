package fetchertest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
)

// Content is one file's bytes, readable at any offset by many at once. It
// holds them in memory, on disk, or not at all (generated as they are read).
// Digests are computed once, when first asked for.
type Content struct {
	r    io.ReaderAt
	size int64
	sum  func() (sums, error)
}

// sums are the names that the Hub gives to one content.
type sums struct{ sha256, gitBlob string }

// NewContent makes a Content of the first size bytes of r, which must be safe
// for concurrent use and must never change.
func NewContent(r io.ReaderAt, size int64) *Content {
	c := &Content{r: r, size: size}
	c.sum = sync.OnceValues(c.digest)
	return c
}

// Bytes makes a Content of b, which must not change any more.
func Bytes(b []byte) *Content { return NewContent(bytes.NewReader(b), int64(len(b))) }

// OnDisk makes a Content of the file at path. The caller closes it; the file
// must not change.
func OnDisk(path string) (*Content, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open content: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("size content: %w", err)
	}
	return NewContent(f, info.Size()), f, nil
}

// Size in bytes.
func (c *Content) Size() int64 { return c.size }

// ReadAt implements io.ReaderAt within the content's size.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(c.r, 0, c.size).ReadAt(p, off)
}

// Reader returns a reader over the whole content.
func (c *Content) Reader() *io.SectionReader { return io.NewSectionReader(c.r, 0, c.size) }

// SHA256 is the content's sha256 in hex: what the Hub vouches with for LFS
// files. The first call reads the whole content.
func (c *Content) SHA256() (string, error) {
	s, err := c.sum()
	return s.sha256, err
}

// GitBlob is the content's git object id: what the Hub vouches with for small
// files. The first call reads the whole content.
func (c *Content) GitBlob() (string, error) {
	s, err := c.sum()
	return s.gitBlob, err
}

func (c *Content) digest() (sums, error) {
	whole, blob := sha256.New(), newGitHash("blob", c.size)
	n, err := io.CopyBuffer(io.MultiWriter(whole, blob), onlyReader{c.Reader()}, make([]byte, min(max(c.size, 1), 1<<20)))
	if err != nil {
		return sums{}, fmt.Errorf("digest content: %w", err)
	}
	if n != c.size {
		return sums{}, fmt.Errorf("digest content: %d bytes of %d: %w", n, c.size, io.ErrUnexpectedEOF)
	}
	return sums{sha256: hex.EncodeToString(whole.Sum(nil)), gitBlob: hex.EncodeToString(blob.Sum(nil))}, nil
}

// onlyReader hides WriterTo, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

// newGitHash begins a git object id of a kind and a length; the object's bytes
// are written to it.
func newGitHash(kind string, size int64) hash.Hash {
	h := sha1.New()
	_, _ = fmt.Fprintf(h, "%s %d\x00", kind, size) // a hash never fails
	return h
}

func gitObject(kind string, body []byte) []byte {
	h := newGitHash(kind, int64(len(body)))
	_, _ = h.Write(body)
	return h.Sum(nil)
}
