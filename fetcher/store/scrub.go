package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"
)

// ScrubPiece is how many bytes one call of [Store.Scrub] reads at most.
const ScrubPiece = 1 << 20

// Blob is content that published revisions use.
type Blob struct {
	SHA256 string
	// Size in bytes.
	Size int64
	// Models are the names of those that use it, sorted.
	Models []string
	// VerifiedAt is when its bytes were first found right as they are now; zero
	// if they are not known to be.
	VerifiedAt time.Time
}

// Blobs lists the content of all published revisions, by digest.
func (s *Store) Blobs(ctx context.Context) ([]Blob, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	blobs := map[string]*Blob{}
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return nil, err
		}
		for _, m := range revisions {
			for _, f := range m.Files {
				b := blobs[f.SHA256]
				if b == nil {
					b = &Blob{SHA256: f.SHA256, Size: f.Size}
					blobs[f.SHA256] = b
				}
				if !slices.Contains(b.Models, name) {
					b.Models = append(b.Models, name)
				}
			}
		}
	}
	all := make([]Blob, 0, len(blobs))
	for _, b := range blobs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r, err := s.readRecord(b.SHA256); err == nil {
			b.VerifiedAt = r.VerifiedAt
		}
		all = append(all, *b)
	}
	slices.SortFunc(all, func(a, b Blob) int { return cmp.Compare(a.SHA256, b.SHA256) })
	return all, nil
}

// ScrubPoint is how far the re-reading of one blob has come. It can be kept as
// JSON, and be gone on with by another process.
type ScrubPoint struct {
	SHA256 string `json:"sha256"`
	// Offset of Size bytes have been read.
	Offset int64 `json:"offset,omitempty"`
	Size   int64 `json:"size,omitempty"`
	// Of these bytes of this file: another one is read from its begin.
	MtimeNanos int64  `json:"mtimeNanos,omitempty"`
	Inode      uint64 `json:"inode,omitempty"`
	// Hash is the state of the hash over the bytes read.
	Hash []byte `json:"hash,omitempty"`
	// Done says that the whole blob was read and is right.
	Done bool `json:"done,omitempty"`
	// Cold is how long the disk took for the last piece.
	Cold Reading `json:"-"`
}

// Scrub reads the next piece of a blob that is taken to be right, from the disk
// where the file system lets it, and leaves the page cache as it was. It returns
// how far it has come; that is Done when all of the content was read and is
// what its name says. Nothing is open between two calls. In a store of [OpenSealed]
// it reads whatever is there, and what it found right is trusted from then on.
//
// ErrUnverified says that there is nothing to be held against: the blob is gone,
// was changed, or is not trusted already, which [Store.Check] tells as well.
// Any other ErrCorrupt is content that turned out wrong, or that cannot be read
// although the volume answers: from here on it is not trusted, so that Check
// tells ErrCorrupt for every revision that uses it, also after a restart, and
// the next pull hashes it and fetches it again. Other errors are of ctx and of
// the file system, and say nothing about the blob.
func (s *Store) Scrub(ctx context.Context, p ScrubPoint) (ScrubPoint, error) {
	if err := errors.Join(ctx.Err(), checkSHA256(p.SHA256)); err != nil {
		return p, err
	}
	info, err := s.blobInfo(p.SHA256)
	if err == nil && !s.sealed {
		err = s.checkRecord(p.SHA256, info)
	}
	if errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnverified) {
		err = fmt.Errorf("%w: %w", err, ErrUnverified)
	}
	if err != nil {
		return p, fmt.Errorf("scrub: %w", err)
	}
	if now := appearanceOf(info); p.Offset == 0 || p.Size != now.Size || p.MtimeNanos != now.MtimeNanos || p.Inode != now.Inode {
		p = ScrubPoint{SHA256: p.SHA256, Size: now.Size, MtimeNanos: now.MtimeNanos, Inode: now.Inode}
	}
	next, err := s.scrubPiece(p, info)
	if errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnverified) {
		err = errors.Join(err, s.distrust(ctx, p.SHA256, info))
	}
	if err != nil {
		return p, fmt.Errorf("scrub: %w", err)
	}
	if next.Done && s.sealed {
		s.trust(p.SHA256, appearanceOf(info))
		s.believe(p.SHA256)
	}
	return next, nil
}

func (s *Store) scrubPiece(p ScrubPoint, info fs.FileInfo) (ScrubPoint, error) {
	h, err := restoreHash(p.Hash)
	if err != nil {
		p.Offset = 0 // the memory of an earlier process is damaged
		h = sha256.New()
	}
	buf := s.takeBuffer()
	defer s.buffers.Put(buf)
	var n int
	p.Cold = Reading{}
	if p.Offset < p.Size {
		n, p.Cold, err = s.readQuietly(s.BlobPath(p.SHA256), info, p.Offset, *buf)
		if err != nil {
			return p, err
		}
	}
	h.Write((*buf)[:n])
	p.Offset += int64(n)
	if p.Offset < p.Size {
		p.Hash, err = saveHash(h)
		return p, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return p, fmt.Errorf("blob %s holds content with sha256 %s: %w", p.SHA256, got, ErrCorrupt)
	}
	p.Hash, p.Done = nil, true
	return p, nil
}

func restoreHash(state []byte) (hash.Hash, error) {
	h := sha256.New()
	if len(state) == 0 {
		return h, nil
	}
	u, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, errors.New("a sha256 cannot be gone on with")
	}
	return h, u.UnmarshalBinary(state)
}

func saveHash(h hash.Hash) ([]byte, error) {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, errors.New("a sha256 cannot be kept")
	}
	return m.MarshalBinary()
}

// distrust takes back what is known of a blob, unless it was replaced since it
// was judged: a pull has brought the new one, verified. If even that cannot be
// written, this process remembers it.
func (s *Store) distrust(ctx context.Context, sha256Hex string, judged fs.FileInfo) error {
	if !s.canWrite() {
		s.doubt(sha256Hex, judged)
		return nil
	}
	err := s.withLayout(ctx, func() error {
		now, err := os.Lstat(s.BlobPath(sha256Hex))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, judged) {
			return nil
		}
		return s.distrustLocked(sha256Hex, judged)
	})
	if err != nil {
		s.doubt(sha256Hex, judged)
		return fmt.Errorf("distrust blob %s: %w", sha256Hex, err)
	}
	return nil
}

// distrustLocked is distrust for who holds the layout's lock and has looked.
func (s *Store) distrustLocked(sha256Hex string, judged fs.FileInfo) error {
	s.doubt(sha256Hex, judged)
	defer s.records.drop(sha256Hex)
	path := s.recordPath(sha256Hex)
	err := s.writeJSON(path, record{Distrusted: true}, true)
	if errors.Is(err, ErrNoSpace) {
		err = s.removeIfExists(path)
		if err == nil {
			err = asStoreError(syncDir(s.AgentFile("verified")))
		}
	}
	return err
}

// doubt remembers what may not be written down: on a file system that has become
// read-only, records say what was.
func (s *Store) doubt(sha256Hex string, judged fs.FileInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doubted == nil {
		s.doubted = map[string]record{}
	}
	s.doubted[sha256Hex] = recordOf(judged)
}

func (s *Store) doubts(sha256Hex string, info fs.FileInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.doubted[sha256Hex]
	return ok && r.matches(info)
}

// Recheck reads again, past the page cache, what this process has found wrong longer
// than age ago and could not write down, and reports whether any of it is right by
// now: it may have been the way to a file server, and nobody else knows of it to
// correct it. It is for an agent that does not write. Errors are ctx's.
func (s *Store) Recheck(ctx context.Context, age time.Duration) (changed bool, err error) {
	s.mu.Lock()
	doubted := maps.Clone(s.doubted)
	s.mu.Unlock()
	for sha256Hex, r := range doubted {
		if time.Since(r.VerifiedAt) < age {
			continue
		}
		info, err := s.blobInfo(sha256Hex)
		if err == nil && r.matches(info) {
			var got string
			buf := s.takeBuffer()
			got, err = hashReader(ctx, &diskReader{store: s, path: s.BlobPath(sha256Hex), info: info}, *buf, nil)
			s.buffers.Put(buf)
			if ctx.Err() != nil {
				return changed, ctx.Err()
			}
			if err != nil || got != sha256Hex {
				s.doubt(sha256Hex, info)
				continue
			}
		}
		// It is right, or another file by now, or gone, which every look tells.
		s.believe(sha256Hex)
		changed = true
	}
	return changed, nil
}

func (s *Store) believe(sha256Hex string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doubted, sha256Hex)
}

// diskReader reads a blob as a scrub does: what a scrub has found wrong on the
// disk may look right in the page cache.
type diskReader struct {
	store *Store
	path  string
	info  fs.FileInfo
	at    int64
}

// Read fills b, which should be as large as a piece.
func (r *diskReader) Read(b []byte) (int, error) {
	if r.at >= r.info.Size() {
		return 0, io.EOF
	}
	n, _, err := r.store.readQuietly(r.path, r.info, r.at, b)
	r.at += int64(n)
	return n, err
}
