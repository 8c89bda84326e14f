package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// GCResult is what a collection removed and what it left for unfinished pulls.
type GCResult struct {
	RemovedBlobs    int   `json:"removedBlobs"`
	RemovedPartials int   `json:"removedPartials"`
	RemovedBytes    int64 `json:"removedBytes"`
	// KeptBytes are of unfinished or withdrawn models: the next pull uses them.
	KeptBytes int64 `json:"keptBytes"`
}

// GC removes what nothing refers to: blobs in no manifest, transfers that
// nobody continued for olderThan, quarantined blobs, leftovers of crashes.
// What a running pull holds, or one that was interrupted less than olderThan
// ago, or a withdrawn revision, is kept.
func (s *Store) GC(ctx context.Context, olderThan time.Duration) (GCResult, error) {
	var res GCResult
	if err := s.checkWritable(); err != nil {
		return res, err
	}
	err := s.withLayout(ctx, func() error {
		used, waiting, err := s.references(olderThan)
		if err != nil {
			return err
		}
		if err := s.collectBlobs(ctx, used, waiting, &res); err != nil {
			return err
		}
		if err := s.collectPartials(olderThan, waiting, &res); err != nil {
			return err
		}
		if err := s.collectQuarantine(&res); err != nil {
			return err
		}
		return errors.Join(s.collectTemps(olderThan), s.tidy())
	})
	return res, asStoreError(err)
}

// references returns the blobs that published revisions use, and those that
// unfinished pulls and withdrawn revisions wait for.
func (s *Store) references(olderThan time.Duration) (used, waiting map[string]bool, err error) {
	used, waiting = map[string]bool{}, map[string]bool{}
	names, err := s.Names()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		revisions, err := s.manifestNames(name)
		if err != nil {
			return nil, nil, err
		}
		for _, revision := range revisions {
			m, err := s.Manifest(name, revision)
			if errors.Is(err, ErrCorrupt) {
				continue // not published: it protects nothing
			}
			if err != nil {
				return nil, nil, err // also a newer format: whatever it uses must stay
			}
			for _, f := range m.Files {
				used[f.SHA256] = true
			}
		}
	}
	withdrawn, err := s.Withdrawn()
	if err != nil {
		return nil, nil, err
	}
	for _, m := range withdrawn {
		for _, f := range m.Files {
			waiting[f.SHA256] = true
		}
	}
	return used, waiting, s.readPlans(olderThan, waiting)
}

// readPlans adds what unfinished pulls hold, and drops plans that nobody works
// on and nobody continued for olderThan.
func (s *Store) readPlans(olderThan time.Duration, waiting map[string]bool) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "agent", "pulls"))
	if err != nil {
		return err
	}
	keep := func(sha256Hex, _ string) { waiting[sha256Hex] = true }
	for _, e := range entries {
		path := s.planPath(e.Name())
		lock, err := s.tryLock("model-" + e.Name())
		if errors.Is(err, ErrBusy) { // a pull is at work
			err = s.readPlan(path, keep)
		} else if err == nil {
			err = errors.Join(s.readOldPlan(path, olderThan, keep), lock.Unlock())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readOldPlan reads a plan that nobody works on, or removes it when it is too
// old.
func (s *Store) readOldPlan(path string, olderThan time.Duration, keep func(sha256Hex, key string)) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if time.Since(info.ModTime()) >= olderThan || !info.Mode().IsRegular() {
		return s.removeAll(path)
	}
	return s.readPlan(path, keep)
}

func (s *Store) collectBlobs(ctx context.Context, used, waiting map[string]bool, res *GCResult) error {
	dir := filepath.Join(s.dir, "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if used[e.Name()] {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if waiting[e.Name()] {
			res.KeptBytes += info.Size()
			continue
		}
		if err := s.removeAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		s.records.drop(e.Name())
		if err := s.removeIfExists(s.recordPath(e.Name())); err != nil {
			return err
		}
		res.RemovedBlobs++
		res.RemovedBytes += info.Size()
	}
	return nil
}

// collectPartials removes transfers that nobody has open and that are older
// than olderThan, and journals whose transfer is gone.
func (s *Store) collectPartials(olderThan time.Duration, waiting map[string]bool, res *GCResult) error {
	dir := filepath.Join(s.dir, "partial")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, e := range entries {
		id := strings.TrimSuffix(e.Name(), ".json")
		if seen[id] || isTemp(e.Name()) {
			continue
		}
		seen[id] = true
		path := filepath.Join(dir, id)
		if checkSHA256(id) != nil || e.Type()&^fs.ModePerm != 0 {
			// No transfer has such a name, or is a link or a folder.
			if err := s.removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		if err := s.collectPartial(path, olderThan, waiting[id], res); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) collectPartial(path string, olderThan time.Duration, keep bool, res *GCResult) (err error) {
	// Made if it is not there: only who has its lock may touch the journal.
	f, err := s.openTransfer(path)
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	// What closing reports was lost by whoever wrote it: a transfer that is gone on
	// with finds out by itself.
	defer f.Close()
	lock, err := s.lockPartial(f, filepath.Base(path))
	if errors.Is(err, ErrBusy) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	// Admitted, and perhaps begun again, since it was opened.
	if same, err := sameFile(f, path); err != nil || !same {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > 0 && (time.Since(info.ModTime()) < olderThan || keep) {
		res.KeptBytes += info.Size()
		return nil
	}
	if info.Size() > 0 {
		res.RemovedPartials++
		res.RemovedBytes += info.Size()
	}
	return errors.Join(s.removeIfExists(path+".json"), s.removeIfExists(path))
}

func (s *Store) collectQuarantine(res *GCResult) error {
	dir := filepath.Join(s.dir, "agent", "quarantine")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			res.RemovedBytes += info.Size()
			res.RemovedBlobs++
		}
		if err := s.removeAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// busy says that somebody is at work on a folder of temporary files.
func busy(dir string) bool {
	f, err := openDir(dir, unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	err = flock(f)
	return errors.Join(err, f.Close()) != nil
}

// collectTemps removes files and links that a crash left before they were
// renamed into place. Young ones may be somebody's. It stays out of folders
// that are not the store's, like lost+found.
func (s *Store) collectTemps(olderThan time.Duration) error {
	remove := func(path string, d fs.DirEntry, err error) error {
		return s.collectTemp(path, d, err, olderThan)
	}
	if s.shared {
		if err := s.emptyTrash(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"partial", "models", "manifests", "status", "agent", "hub"} {
		if err := filepath.WalkDir(filepath.Join(s.dir, dir), remove); err != nil {
			return err
		}
	}
	return nil
}

// collectTemp looks at one file of a walk. With an error there may be no entry.
func (s *Store) collectTemp(path string, d fs.DirEntry, err error, olderThan time.Duration) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.shared && path == filepath.Join(s.dir, epochsDir) {
		return fs.SkipDir // it goes with the term
	}
	if !isTemp(d.Name()) {
		return nil
	}
	info, err := d.Info()
	if err != nil || time.Since(info.ModTime()) < max(olderThan, time.Minute) {
		return nil //nolint:nilerr // gone meanwhile is what we want
	}
	if d.IsDir() && busy(path) {
		return fs.SkipDir
	}
	return s.removeAll(path)
}
