package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Problem is one file that is not what its manifest says.
type Problem struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Reason string `json:"reason"`
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
// Others may work in the store meanwhile, on this machine or another: a revision
// that was removed when something of it is found missing is ErrNotFound, and one
// that was published anew is verified as it is then.
// The error is about the work itself: what is wrong with files is in Problems.
func (s *Store) Verify(ctx context.Context, m Manifest, onRead func(int)) (VerifyResult, error) {
	v := &verification{store: s, onRead: onRead, judged: map[string]judgement{}}
	err := v.run(ctx, m)
	if err = errors.Join(err, v.failed); err != nil {
		return v.res, fmt.Errorf("verify %s: %w", m.Name, err)
	}
	return v.res, nil
}

// verification is one look at every byte of a revision.
type verification struct {
	store   *Store
	onRead  func(int)
	res     VerifyResult
	judged  map[string]judgement // by digest
	folders map[string]bool      // seen to be real
	// bad blobs wait to be quarantined: each time costs a look at all manifests,
	// so that many within a second are one.
	bad     map[string]fs.FileInfo
	settled int       // how many problems are known to be the revision's
	last    time.Time // that some were settled
	failed  error     // to be quarantined
}

// judgement is what hashing a blob gave, and the file that was hashed.
type judgement struct {
	err  error
	info fs.FileInfo
}

// How long problems wait at most to be settled, and which blob takes longer than
// that to hash.
const (
	quarantineEvery = time.Second
	slowToHash      = 64 << 20
)

// run verifies the revision until it was the same from the begin to the end.
func (v *verification) run(ctx context.Context, m Manifest) error {
	for {
		now, err := v.pass(ctx, m)
		if now.PublishedAt.Equal(m.PublishedAt) {
			return err
		}
		m = now
	}
}

// pass verifies the revision, and returns m, or what was published in its place
// meanwhile.
func (v *verification) pass(ctx context.Context, m Manifest) (Manifest, error) {
	v.res, v.folders, v.bad, v.settled = VerifyResult{Problems: []Problem{}}, map[string]bool{}, map[string]fs.FileInfo{}, 0
	maps.DeleteFunc(v.judged, func(_ string, j judgement) bool { return j.err != nil })
	for _, f := range m.Files {
		due := time.Since(v.last) >= quarantineEvery || f.Size >= slowToHash
		if now, err := v.settle(ctx, m, due); err != nil || !now.PublishedAt.Equal(m.PublishedAt) {
			return now, err
		}
		err := v.verifyFile(ctx, m, f)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return m, v.stopped(ctx, m, fmt.Errorf("%s: %w", f.Path, err))
		}
		if err != nil {
			reason := strings.TrimSuffix(err.Error(), ": "+ErrCorrupt.Error())
			v.res.Problems = append(v.res.Problems, Problem{Path: f.Path, SHA256: f.SHA256, Reason: reason})
		}
		v.res.Files++
		v.res.Bytes += f.Size
		if f.VouchedBy == "" {
			v.res.Unvouched++
		}
	}
	now, err := v.settle(ctx, m, true)
	if err != nil || !now.PublishedAt.Equal(m.PublishedAt) || len(v.res.Problems) == 0 || v.failed != nil || !v.store.canWrite() {
		return now, err
	}
	err = v.store.withLayout(ctx, func() (err error) {
		// Nobody removes or publishes while the lock is held.
		if now, err = v.publishedNow(m); err != nil || !now.PublishedAt.Equal(m.PublishedAt) {
			return err
		}
		return v.store.withdrawSame(m)
	})
	return now, err
}

// stopped is why a pass cannot go on. What was found bad is, also when the rest
// could not be looked at.
func (v *verification) stopped(ctx context.Context, m Manifest, err error) error {
	if mayBeRemoved(err) {
		if _, nowErr := v.publishedNow(m); errors.Is(nowErr, ErrNotFound) {
			return nowErr
		}
	}
	_, settleErr := v.settle(ctx, m, true)
	if errors.Is(settleErr, ErrNotFound) {
		return settleErr
	}
	return errors.Join(err, settleErr)
}

// settle makes sure, if that is due, that the problems since the last time are the
// published revision's, and quarantines what is bad. It returns what is published.
func (v *verification) settle(ctx context.Context, m Manifest, due bool) (Manifest, error) {
	if len(v.res.Problems) == v.settled || !due {
		return m, nil
	}
	now, err := v.publishedNow(m)
	if err != nil || !now.PublishedAt.Equal(m.PublishedAt) {
		return now, err
	}
	v.settled = len(v.res.Problems)
	if len(v.bad) > 0 {
		v.failed = errors.Join(v.failed, v.store.quarantine(ctx, v.bad))
		clear(v.bad)
	}
	v.last = time.Now()
	return m, nil
}

// publishedNow is the store's. Nothing was found wrong with what was removed.
func (v *verification) publishedNow(m Manifest) (Manifest, error) {
	now, err := v.store.publishedNow(m)
	if errors.Is(err, ErrNotFound) {
		v.res = VerifyResult{Problems: []Problem{}}
	}
	return now, err
}

// verifyFile looks at one file. What seems to be missing is looked up anew, because
// a network file system remembers for a while what was not there.
func (v *verification) verifyFile(ctx context.Context, m Manifest, f ManifestFile) error {
	err := v.look(ctx, m, f)
	if mayBeRemoved(err) {
		v.store.revalidate(m, f)
		clear(v.folders)
		delete(v.judged, f.SHA256)
		err = v.look(ctx, m, f)
	}
	if j := v.judged[f.SHA256]; errors.Is(j.err, ErrCorrupt) && v.store.canWrite() {
		v.bad[f.SHA256] = j.info
	}
	return err
}

func (v *verification) look(ctx context.Context, m Manifest, f ManifestFile) error {
	if err := v.store.checkLink(m, f, v.folders); err != nil {
		return err
	}
	j, done := v.judged[f.SHA256]
	if !done {
		j.info, j.err = v.store.hashBlob(ctx, f.SHA256, f.Size, v.onRead)
		if errors.Is(j.err, ErrNoSpace) {
			// The bytes are right; only the record of that could not be written,
			// which costs a re-hash and no more.
			j.err = nil
		}
		v.judged[f.SHA256] = j
	}
	if j.err == nil && j.info.Size() != f.Size {
		return fmt.Errorf("blob %s has %d bytes, should have %d: %w", f.SHA256, j.info.Size(), f.Size, ErrCorrupt)
	}
	return j.err
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

func (s *Store) withLayout(ctx context.Context, do func() error) error {
	lock, err := s.lockLayout(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(), lock.Unlock())
}

// quarantine withdraws every revision that uses one of the blobs, then moves the
// blobs aside. The order is the point: nothing promises bytes that are gone. With
// each digest comes what was found wrong, nil for a blob that was missing; if
// something else is there by now, a pull has brought it, verified, and nothing is
// done.
func (s *Store) quarantine(ctx context.Context, judged map[string]fs.FileInfo) error {
	released := map[string]bool{}
	for {
		var waiting []string
		err := s.withLayout(ctx, func() (err error) {
			waiting, err = s.tryQuarantine(judged, released)
			return err
		})
		if err != nil || len(waiting) == 0 {
			return err
		}
		// Without the lock: it may take as long as an API server is away.
		if err := s.beforeWithdraw(ctx, waiting); err != nil {
			return fmt.Errorf("withdraw %s: %w", strings.Join(waiting, ", "), err)
		}
		for _, name := range waiting {
			released[name] = true
		}
	}
}

// tryQuarantine does it if every model that uses the blobs is released; else it
// does nothing but to distrust them, and returns those that are not. The caller
// holds the layout's lock.
func (s *Store) tryQuarantine(judged map[string]fs.FileInfo, released map[string]bool) (waiting []string, err error) {
	bad := make(map[string]bool, len(judged))
	if err := reopen(filepath.Join(s.dir, "blobs", "sha256")); err != nil {
		return nil, err
	}
	for sha256Hex, was := range judged {
		now, err := os.Lstat(s.BlobPath(sha256Hex))
		if err = s.blame(err); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		bad[sha256Hex] = err != nil || was != nil && os.SameFile(now, was)
	}
	users, err := s.users(bad)
	if err != nil {
		return nil, err
	}
	if s.beforeWithdraw != nil {
		for _, m := range users {
			// Nobody promises a revision that was superseded.
			now, err := s.Lookup(m.Name)
			if err != nil {
				return nil, err
			}
			if now.Revision == m.Revision && !released[m.Name] {
				waiting = append(waiting, m.Name)
			}
		}
		if len(waiting) > 0 {
			for sha256Hex, was := range judged {
				if bad[sha256Hex] && was != nil {
					if err := s.distrustLocked(sha256Hex, was); err != nil {
						return nil, err
					}
				}
			}
			return waiting, nil
		}
	}
	for _, m := range users {
		if err := s.withdraw(m); err != nil {
			return nil, err
		}
	}
	for sha256Hex, isBad := range bad {
		if !isBad {
			continue
		}
		if err := s.moveAside(sha256Hex); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// users returns every published revision that uses one of the blobs.
func (s *Store) users(blobs map[string]bool) ([]Manifest, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var users []Manifest
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return nil, err
		}
		for _, m := range revisions {
			if slices.ContainsFunc(m.Files, func(f ManifestFile) bool { return blobs[f.SHA256] }) {
				users = append(users, m)
			}
		}
	}
	return users, nil
}

func (s *Store) moveAside(sha256Hex string) error {
	s.records.drop(sha256Hex)
	if err := s.removeIfExists(s.recordPath(sha256Hex)); err != nil {
		return err
	}
	aside := filepath.Join(s.dir, "agent", "quarantine", fmt.Sprintf("%s-%d", sha256Hex, time.Now().UnixNano()))
	err := s.rename(s.BlobPath(sha256Hex), aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return asStoreError(err)
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
	kept := filepath.Join(dir, m.Revision+".json")
	err := s.writeJSON(kept, m, true)
	if errors.Is(err, ErrNoSpace) {
		// On a full disk, too, nothing may be promised that is known to be wrong: a
		// name takes no room.
		err = errors.Join(asStoreError(s.rename(s.manifestPath(m.Name, m.Revision), kept)), asStoreError(syncDir(dir)))
	}
	if err != nil {
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
	if s.removed(err) {
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
		if err := s.readJSON(filepath.Join(dir, e.Name()), maxList, &m); err != nil {
			if s.removed(err) || errors.Is(err, ErrCorrupt) {
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
