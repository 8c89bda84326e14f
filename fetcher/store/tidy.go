package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tidy brings what is derived from manifests in line with them: folders of
// revisions, current links, the hub view, records. A kill between the steps of
// publishing or removing leaves them behind. The caller holds the layout's
// lock, without which none of them changes.
func (s *Store) tidy() error {
	withdrawn, err := s.Withdrawn()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "models"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isTemp(e.Name()) {
			continue // it may be somebody's
		}
		if err := s.tidyModel(e.Name(), withdrawn); err != nil {
			return err
		}
	}
	return errors.Join(s.tidyHub(), s.tidyRecords())
}

func (s *Store) tidyModel(name string, withdrawn []Manifest) error {
	dir := filepath.Join(s.dir, "models", name)
	if real, err := isRealDir(dir); err != nil {
		return err
	} else if !real || checkFolder(name) != nil {
		return s.removeAll(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	left := 0
	for _, e := range entries {
		keep := e.Name() == currentLink || isTemp(e.Name()) ||
			slices.ContainsFunc(withdrawn, func(m Manifest) bool { return m.Name == name && m.Revision == e.Name() })
		if !keep {
			// Damaged manifests too: the next pull mends them, or RemoveRevision takes them.
			_, err := os.Lstat(s.manifestPath(name, e.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			keep = err == nil
		}
		if !keep {
			if err := s.removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		if e.Name() != currentLink {
			left++
		}
	}
	if left == 0 {
		return s.removeAll(dir)
	}
	return s.repointCurrent(name)
}

// repointCurrent makes current name a published revision: the newest, if it
// names none. Without any it is removed.
func (s *Store) repointCurrent(name string) error {
	link := s.currentPath(name)
	target, err := os.Readlink(link)
	if err == nil && CheckRevision(target) == nil {
		if _, err := s.Manifest(name, target); !errors.Is(err, ErrNotFound) {
			return nil // published, or to be mended
		}
	}
	revisions, err := s.Revisions(name)
	if err != nil {
		return err
	}
	if real, err := isRealDir(filepath.Dir(link)); err != nil || !real {
		return err
	}
	if len(revisions) == 0 {
		err = s.removeAll(link)
	} else {
		err = s.replaceLink(revisions[0].Revision, link)
	}
	return errors.Join(asStoreError(err), asStoreError(syncDir(filepath.Dir(link))))
}

// tidyHub refreshes the view of every repository that has one or should.
func (s *Store) tidyHub() error {
	names, err := s.Names()
	if err != nil {
		return err
	}
	views := map[string]bool{}
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return err
		}
		for _, m := range revisions {
			repo, _, ok := splitHubSource(m.Source)
			if !ok || views[hubFolder(repo)] {
				continue
			}
			views[hubFolder(repo)] = true
			if err := s.refreshHub(m.Source, nil); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "hub"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), hubPrefix) && !views[e.Name()] {
			if err := s.removeAll(filepath.Join(s.dir, "hub", e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// tidyRecords removes records of blobs that are gone.
func (s *Store) tidyRecords() error {
	dir := filepath.Join(s.dir, "agent", "verified")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isTemp(e.Name()) {
			continue
		}
		_, err := os.Lstat(s.BlobPath(strings.TrimSuffix(e.Name(), ".json")))
		if errors.Is(err, fs.ErrNotExist) {
			err = s.removeAll(filepath.Join(dir, e.Name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
