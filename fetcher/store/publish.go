package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const currentLink = "current"

func (s *Store) currentPath(name string) string {
	return filepath.Join(s.dir, "models", name, currentLink)
}

// Publish makes a revision visible: its links, the hub view, current, and
// last, synced, the manifest. Every blob must have been admitted or found by
// Has in this staging. Publishing what is published already repairs its links
// and changes nothing else; a different choice of files under the same
// revision replaces the list.
func (g *Staging) Publish(ctx context.Context, m Manifest) error {
	m.FormatVersion = formatVersion
	if err := errors.Join(m.check(), m.CheckSize()); err != nil {
		return fmt.Errorf("publish %s@%s: %w", m.Name, m.Revision, err)
	}
	if m.Name != g.name {
		return fmt.Errorf("publish %s: the staging is for %s", m.Name, g.name)
	}
	lock, err := g.store.lockLayout(ctx)
	if err != nil {
		return err
	}
	before, after, err := g.store.newGeneration(func() error { return g.store.publish(m) })
	if err == nil {
		g.before, g.after = before, after
		// Withdrawn revisions waited for this: the model has a good one again.
		err = errors.Join(g.store.removeIfExists(g.store.planPath(g.name)), asStoreError(g.store.removeAll(g.store.withdrawnDir(g.name))))
	}
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return fmt.Errorf("publish %s@%s: %w", m.Name, m.Revision, err)
	}
	return nil
}

func (s *Store) publish(m Manifest) error {
	for _, f := range m.Files {
		if err := s.statBlob(f.SHA256, f.Size); err != nil {
			return err
		}
	}
	s.syncRecords(m.Files)
	volume, err := s.findVolume()
	if err != nil {
		return err
	}
	if err := volume.Fits(m.sizes()); err != nil {
		return err
	}
	if err := s.linkFiles(s.Path(m.Name, m.Revision), m.Files); err != nil {
		return err
	}
	if err := s.refreshHub(m.Source, &m); err != nil {
		return err
	}
	if err := s.replaceLink(m.Revision, s.currentPath(m.Name)); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(s.dir, "models", m.Name)); err != nil {
		return asStoreError(err)
	}
	dir := filepath.Dir(s.manifestPath(m.Name, m.Revision))
	if err := s.makeDir(dir); err != nil {
		return err
	}
	before, beforeErr := s.Manifest(m.Name, m.Revision)
	if err := s.writeJSON(s.manifestPath(m.Name, m.Revision), m, true); err != nil {
		return err
	}
	if beforeErr == nil && before.Source != m.Source {
		// The same commit in a repository of another name: its view goes.
		if err := s.refreshHub(before.Source, nil); err != nil {
			return err
		}
	}
	// Links that the manifest does not list: of a wider choice of files
	// before, or of a crash.
	return s.pruneLinks(s.Path(m.Name, m.Revision), m.Files)
}

func (m *Manifest) sizes() map[string]int64 {
	sizes := make(map[string]int64, len(m.Files))
	for _, f := range m.Files {
		sizes[f.Path] = f.Size
	}
	return sizes
}

// linkFiles makes every file's link in dir and syncs the directories.
func (s *Store) linkFiles(dir string, files []ManifestFile) error {
	if err := s.makeDir(dir); err != nil {
		return err
	}
	dirs, targets := map[string]bool{dir: true}, make(map[string]string, len(files))
	for _, f := range files {
		link := filepath.Join(dir, filepath.FromSlash(f.Path))
		if d := filepath.Dir(link); !dirs[d] {
			if err := s.makeDirs(d, false); err != nil {
				return err
			}
			for ; !dirs[d]; d = filepath.Dir(d) {
				dirs[d] = true
			}
		}
		target, err := filepath.Rel(filepath.Dir(link), s.BlobPath(f.SHA256))
		if err != nil {
			return err
		}
		if err := s.replaceLink(target, link); err != nil {
			return err
		}
		targets[link] = target
	}
	if err := checkLinks(dir, targets); err != nil {
		return err
	}
	return asStoreError(s.syncDirs(dirs))
}

// checkLinks looks whether each link just made below dir is still what it was
// made: where a file system folds names, a later one may have replaced it.
func checkLinks(dir string, targets map[string]string) error {
	for link, target := range targets {
		have, err := os.Readlink(link)
		if err != nil {
			return err
		}
		if have == target {
			continue
		}
		name := strings.TrimPrefix(link, dir+string(filepath.Separator))
		for other, its := range targets {
			if its == have && strings.EqualFold(other, link) {
				return volumeAt(dir).oneName(strings.TrimPrefix(other, dir+string(filepath.Separator)), name)
			}
		}
		return volumeAt(dir).oneName(name, "another")
	}
	return nil
}

// pruneLinks removes what files does not list below dir, and directories that
// are empty then.
func (s *Store) pruneLinks(dir string, files []ManifestFile) error {
	want := map[string]bool{}
	for _, f := range files {
		p := filepath.FromSlash(f.Path)
		for ; p != "."; p = filepath.Dir(p) {
			want[p] = true
		}
	}
	var extra []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." || want[rel] {
			return err
		}
		extra = append(extra, path)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range extra {
		if err := s.removeAll(path); err != nil {
			return asStoreError(err)
		}
	}
	return nil
}

// Remove takes a model out of the store: unpublished first, then its folders.
// Its blobs stay until GC. ErrNotFound if nothing of it is here; waits for a
// pull of it to end.
func (s *Store) Remove(ctx context.Context, name string) error {
	if err := checkFolder(name); err != nil {
		return err
	}
	lock, err := s.LockModel(ctx, name, nil)
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	layout, err := s.lockLayout(ctx)
	if err == nil {
		err = errors.Join(s.remove(name), layout.Unlock())
	}
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func (s *Store) remove(name string) error {
	known := false
	sources := map[string]bool{}
	for _, parent := range []string{"manifests", "models", "agent/withdrawn"} {
		if _, err := os.Lstat(filepath.Join(s.dir, parent, name)); err == nil {
			known = true
		}
	}
	if _, err := os.Lstat(s.planPath(name)); err == nil {
		known = true
	}
	if !known {
		return ErrNotFound
	}
	revisions, err := s.Revisions(name)
	if err != nil {
		return err
	}
	withdrawn, err := s.Withdrawn()
	if err != nil {
		return err
	}
	for _, m := range slices.Concat(revisions, withdrawn) {
		if m.Name == name {
			sources[m.Source] = true
		}
	}
	// The manifests go first: from here on nothing says that it is published.
	if err := s.removeAll(filepath.Join(s.dir, "manifests", name)); err != nil {
		return asStoreError(err)
	}
	s.endGeneration()
	if err := syncDir(filepath.Join(s.dir, "manifests")); err != nil {
		return asStoreError(err)
	}
	for source := range sources {
		if err := s.refreshHub(source, nil); err != nil {
			return err
		}
	}
	paths := []string{filepath.Join(s.dir, "models", name), s.withdrawnDir(name), s.planPath(name)}
	if name != heartbeatName {
		paths = append(paths, s.statusPath(name))
	}
	for _, path := range paths {
		if err := s.removeAll(path); err != nil {
			return asStoreError(err)
		}
	}
	return nil
}

// RemoveRevision takes one superseded revision out of the store, also one whose
// manifest is damaged. It refuses the one that Lookup returns. ErrNotFound if it
// is not there.
func (s *Store) RemoveRevision(ctx context.Context, name, revision string) error {
	err := s.withLayout(ctx, func() error {
		current, err := s.Lookup(name)
		if err != nil {
			return err
		}
		m, err := s.Manifest(name, revision)
		if errors.Is(err, ErrCorrupt) {
			// Nobody knows what it promised, only which it was.
			m, err = Manifest{Name: name, Revision: revision, Source: current.Source}, nil
		}
		if err != nil {
			return err
		}
		if current.Revision == revision {
			return errors.New("it is the current revision")
		}
		if err := s.unpublish(m); err != nil {
			return err
		}
		return s.removeAll(s.Path(name, revision))
	})
	if err != nil {
		return fmt.Errorf("remove %s@%s: %w", name, revision, asStoreError(err))
	}
	return nil
}

// unpublish removes one manifest, and brings current and the hub view in line.
func (s *Store) unpublish(m Manifest) error {
	path := s.manifestPath(m.Name, m.Revision)
	if err := asStoreError(s.removeAll(path)); err != nil { // a damaged one may be a folder
		return err
	}
	s.endGeneration()
	if err := syncDir(filepath.Dir(path)); err != nil {
		return asStoreError(err)
	}
	// The link first: what the view shows then is of published revisions only.
	return errors.Join(s.repointCurrent(m.Name), s.refreshHub(m.Source, nil))
}

func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }
