package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
)

// OpenSealed opens, as [OpenLater] does, a store into which nobody writes: not this
// process, and none that it knows of. Every method that would write returns
// ErrReadOnly, whatever the mount allows. Records that came with the volume hold
// where inode numbers and times did too, as on a snapshot or a clone of a disk; for
// the rest this process remembers what was found right ([Store.Scrub],
// [Store.Trust]).
func OpenSealed(dir string) (*Store, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	s.sealed = true
	return s, nil
}

// Survey is what stat shows of the content of a published revision.
type Survey struct {
	// Print tells whether another look, from this or another machine that mounts
	// the same volume, has seen the same files: it is a digest of their contents'
	// names, sizes, times and inode numbers.
	Print string
	// Known says of each file of the manifest whether its bytes are known to be
	// right, Doubted whether they were found wrong.
	Known, Doubted []bool

	files []appearance
}

// Survey looks at the content of a published revision. ErrCorrupt says that a file
// is missing or has another size.
func (s *Store) Survey(ctx context.Context, m Manifest) (Survey, error) {
	v := Survey{Known: make([]bool, len(m.Files)), Doubted: make([]bool, len(m.Files)), files: make([]appearance, len(m.Files))}
	h := sha256.New()
	for i, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return Survey{}, err
		}
		info, err := s.blobInfo(f.SHA256)
		if err == nil && info.Size() != f.Size {
			err = fmt.Errorf("blob %s has %d bytes, should have %d: %w", f.SHA256, info.Size(), f.Size, ErrCorrupt)
		}
		if err != nil {
			return Survey{}, fmt.Errorf("%s@%s: %s: %w", m.Name, m.Revision, f.Path, err)
		}
		v.files[i] = appearanceOf(info)
		v.Known[i], v.Doubted[i] = s.checkRecord(f.SHA256, info) == nil, s.doubts(f.SHA256, info)
		a := v.files[i]
		line := f.SHA256 + " " + strconv.FormatInt(a.Size, 10) + " " + strconv.FormatInt(a.MtimeNanos, 10) + " " + strconv.FormatUint(a.Inode, 10) + "\n"
		h.Write([]byte(line))
	}
	v.Print = hex.EncodeToString(h.Sum(nil)[:16])
	return v, nil
}

// Trust takes the bytes of files of the manifest, by index, for right, as long as
// stat shows what the survey has seen: somebody who saw the same has read them.
// What this process has found wrong by itself, it does not trust for that.
func (s *Store) Trust(m Manifest, seen Survey, files ...int) {
	for _, i := range files {
		s.trust(m.Files[i].SHA256, seen.files[i])
	}
}

// Doubt takes the bytes of one file for wrong, as long as stat shows what the
// survey has seen, until a [Store.Scrub] finds them right.
func (s *Store) Doubt(m Manifest, seen Survey, file int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doubted == nil {
		s.doubted = map[string]record{}
	}
	s.doubted[m.Files[file].SHA256] = record{appearance: seen.files[file]}
}

func (s *Store) trust(sha256Hex string, as appearance) {
	key, ok := keyOf(sha256Hex)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trusted == nil {
		s.trusted = map[blobKey]appearance{}
	}
	s.trusted[key] = as
}

// trusts says whether the blob, as info shows it, was found right since this
// process began.
func (s *Store) trusts(sha256Hex string, info fs.FileInfo) bool {
	key, ok := keyOf(sha256Hex)
	if !ok || !s.sealed {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	as, ok := s.trusted[key]
	return ok && as == appearanceOf(info)
}
