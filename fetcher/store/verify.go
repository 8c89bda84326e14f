package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Problem is one file that is not what its manifest says.
type Problem struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Reason string `json:"reason"`
}

// Check looks at a published revision by what stat shows, without reading its
// bytes: every file is linked to its blob, and every blob is a regular file of
// the right size that has not changed since it was verified. ErrCorrupt tells
// the first thing that is wrong; other errors are the file system's.
func (s *Store) Check(ctx context.Context, m Manifest) error {
	folders := map[string]bool{}
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.checkLink(m, f, folders); err != nil {
			return err
		}
		if err := s.statBlob(f.SHA256, f.Size); err != nil {
			return fmt.Errorf("%s@%s: %s: %w", m.Name, m.Revision, f.Path, err)
		}
	}
	if target, err := os.Readlink(s.currentPath(m.Name)); err != nil || CheckRevision(target) != nil {
		return fmt.Errorf("%s: the link %s is missing: %w", m.Name, currentLink, ErrCorrupt)
	}
	return nil
}

// Present looks, as anybody may who reads the store, whether every file of a
// published revision is there with its size. It needs no records.
func (s *Store) Present(ctx context.Context, m Manifest) error {
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(s.Path(m.Name, m.Revision), filepath.FromSlash(f.Path)))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s@%s: %s is missing: %w", m.Name, m.Revision, f.Path, ErrCorrupt)
		}
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return fmt.Errorf("%s@%s: %s has %d bytes, should have %d: %w", m.Name, m.Revision, f.Path, info.Size(), f.Size, ErrCorrupt)
		}
	}
	return nil
}

// checkLink holds one file's link against what was published. folders are those
// that were seen to be real: a link among them would lead elsewhere.
func (s *Store) checkLink(m Manifest, f ManifestFile, folders map[string]bool) error {
	link := filepath.Join(s.Path(m.Name, m.Revision), filepath.FromSlash(f.Path))
	top := filepath.Join(s.dir, "models")
	for dir := filepath.Dir(link); dir != top && !folders[dir]; dir = filepath.Dir(dir) {
		real, err := isRealDir(dir)
		if err != nil && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		if !real {
			return fmt.Errorf("%s@%s: the folder of %s is missing: %w", m.Name, m.Revision, f.Path, ErrCorrupt)
		}
		folders[dir] = true
	}
	want, err := filepath.Rel(filepath.Dir(link), s.BlobPath(f.SHA256))
	if err != nil {
		return err
	}
	got, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s@%s: %s is missing: %w", m.Name, m.Revision, f.Path, ErrCorrupt)
	}
	// EINVAL is a file that is no link, ENOTDIR a file on the way.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	if got != want {
		return fmt.Errorf("%s@%s: %s is not the link that was published: %w", m.Name, m.Revision, f.Path, ErrCorrupt)
	}
	return nil
}

// VerifyResult is what Verify found.
type VerifyResult struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Unvouched counts files whose source states no digest: their bytes are
	// what arrived, and still are.
	Unvouched int       `json:"unvouched"`
	Problems  []Problem `json:"problems"`
}

// Verify hashes every byte of a published revision. In a writable store, bad
// blobs are quarantined and every revision that uses them is withdrawn, so
// that nothing says any longer that they are published; the next pull fetches
// just those. onRead, if not nil, is told the bytes of each read.
// The error is about the work itself: what is wrong with files is in Problems.
func (s *Store) Verify(ctx context.Context, m Manifest, onRead func(int)) (VerifyResult, error) {
	res := VerifyResult{Problems: []Problem{}}
	judged, folders := map[string]error{}, map[string]bool{}
	for _, f := range m.Files {
		err := s.checkLink(m, f, folders)
		if err == nil {
			var done bool
			if err, done = judged[f.SHA256]; !done {
				err = s.verifyBlob(ctx, f, onRead)
				judged[f.SHA256] = err
			}
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return res, fmt.Errorf("verify %s: %s: %w", m.Name, f.Path, err)
		}
		if err != nil {
			reason := strings.TrimSuffix(err.Error(), ": "+ErrCorrupt.Error())
			res.Problems = append(res.Problems, Problem{Path: f.Path, SHA256: f.SHA256, Reason: reason})
		}
		res.Files++
		res.Bytes += f.Size
		if f.VouchedBy == "" {
			res.Unvouched++
		}
	}
	if len(res.Problems) > 0 && s.writable {
		if err := s.withLayout(ctx, func() error { return s.withdrawSame(m) }); err != nil {
			return res, fmt.Errorf("verify %s: %w", m.Name, err)
		}
	}
	return res, nil
}

// withdrawSame withdraws a revision unless it was removed, or published anew,
// since m was read.
func (s *Store) withdrawSame(m Manifest) error {
	now, err := s.Manifest(m.Name, m.Revision)
	if errors.Is(err, ErrNotFound) || err == nil && !now.PublishedAt.Equal(m.PublishedAt) {
		return nil
	}
	if errors.Is(err, ErrCorrupt) {
		return s.withdraw(m)
	}
	if err != nil {
		return err
	}
	return s.withdraw(now)
}

func (s *Store) verifyBlob(ctx context.Context, f ManifestFile, onRead func(int)) error {
	info, err := s.hashBlob(ctx, f.SHA256, onRead)
	if errors.Is(err, ErrNoSpace) {
		// The bytes are right; only the record of that could not be written,
		// which costs a re-hash and no more.
		err = nil
	}
	if errors.Is(err, ErrCorrupt) && s.writable {
		return errors.Join(err, s.quarantine(ctx, f.SHA256, info))
	}
	if err == nil && info.Size() != f.Size {
		return fmt.Errorf("blob %s has %d bytes, should have %d: %w", f.SHA256, info.Size(), f.Size, ErrCorrupt)
	}
	return err
}

func (s *Store) withLayout(ctx context.Context, do func() error) error {
	lock, err := s.lockLayout(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(), lock.Unlock())
}

// quarantine withdraws every revision that uses the blob, then moves the blob
// aside. The order is the point: nothing promises bytes that are gone. judged
// is what was found wrong, nil for a blob that was missing; if something else
// is there by now, a pull has brought it, verified, and nothing is done.
func (s *Store) quarantine(ctx context.Context, sha256Hex string, judged fs.FileInfo) error {
	return s.withLayout(ctx, func() error {
		now, err := os.Lstat(s.BlobPath(sha256Hex))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && (judged == nil || !os.SameFile(now, judged)) {
			return nil
		}
		names, err := s.Names()
		if err != nil {
			return err
		}
		for _, name := range names {
			revisions, err := s.Revisions(name)
			if err != nil {
				return err
			}
			for _, m := range revisions {
				if !m.uses(sha256Hex) {
					continue
				}
				if err := s.withdraw(m); err != nil {
					return err
				}
			}
		}
		if err := removeIfExists(s.recordPath(sha256Hex)); err != nil {
			return err
		}
		aside := filepath.Join(s.dir, "agent", "quarantine", fmt.Sprintf("%s-%d", sha256Hex, time.Now().UnixNano()))
		err = os.Rename(s.BlobPath(sha256Hex), aside)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return asStoreError(err)
	})
}

func (m *Manifest) uses(sha256Hex string) bool {
	for _, f := range m.Files {
		if f.SHA256 == sha256Hex {
			return true
		}
	}
	return false
}

func (s *Store) withdrawnDir(name string) string {
	return filepath.Join(s.dir, "agent", "withdrawn", name)
}

// withdraw unpublishes a revision that turned out wrong and remembers it, so
// that its good blobs wait for the next pull and people can see what happened.
func (s *Store) withdraw(m Manifest) error {
	dir := s.withdrawnDir(m.Name)
	if err := s.makeDir(dir); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, m.Revision+".json"), m, true); err != nil {
		return err
	}
	return s.unpublish(m)
}

// Withdrawn returns the manifests of revisions that were found wrong and not
// pulled again since.
func (s *Store) Withdrawn() ([]Manifest, error) {
	names, err := os.ReadDir(filepath.Join(s.dir, "agent", "withdrawn"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // never written to
	}
	if err != nil {
		return nil, err
	}
	var all []Manifest
	for _, name := range names {
		some, err := s.withdrawnOf(name.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (s *Store) withdrawnOf(name string) ([]Manifest, error) {
	dir := s.withdrawnDir(name)
	if real, err := isRealDir(dir); err != nil || !real {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // published again meanwhile
	}
	if err != nil {
		return nil, err
	}
	var all []Manifest
	for _, e := range entries {
		if isTemp(e.Name()) {
			continue
		}
		var m Manifest
		if err := readJSON(filepath.Join(dir, e.Name()), &m); err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
				continue
			}
			return nil, err
		}
		if m.check() != nil || m.Name != name {
			continue
		}
		newest, err := s.Lookup(m.Name)
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, errNewer) {
			return nil, err
		}
		// A revision that was superseded waits for nothing; and a kill may come
		// between publishing and forgetting what is withdrawn.
		if err != nil || !newest.PublishedAt.After(m.PublishedAt) {
			all = append(all, m)
		}
	}
	return all, nil
}
