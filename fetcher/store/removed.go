package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// errMissing is an ErrCorrupt of something that is not there. Where others work in
// the store too, that alone is no damage: a removal takes the manifest first, then
// links and blobs.
var errMissing error = &worded{ErrCorrupt, ErrCorrupt.Error()}

// mayBeRemoved says that an error may come from a removal, by this machine or
// another one.
func mayBeRemoved(err error) bool {
	return errors.Is(err, errMissing) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE)
}

// removed says that what an error is about is not there: ENOENT, or ESTALE, by
// which a network file system tells of something that another client has removed,
// unless the whole volume is stale.
func (s *Store) removed(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) && reopen(filepath.Join(s.dir, "manifests")) == nil
}

// reopen has a network file system ask its server about a directory, and with that
// forget what it remembers of its names: that one was not there, too.
func reopen(dir string) error {
	f, err := openDir(dir, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// revalidate has everything looked up anew that leads to a file of a revision.
func (s *Store) revalidate(m Manifest, f ManifestFile) {
	dirs := []string{filepath.Join(s.dir, "blobs", "sha256")}
	top := filepath.Join(s.dir, "models")
	for dir := filepath.Dir(filepath.Join(s.Path(m.Name, m.Revision), filepath.FromSlash(f.Path))); dir != top; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	for _, dir := range slices.Backward(append(dirs, top)) {
		_ = reopen(dir) // whoever looks next finds out what is wrong
	}
}

// publishedNow returns the manifest that is published by now as m's revision: m, or
// the one of a pull since. ErrNotFound if the revision was removed. One that was
// withdrawn was not, and neither was one whose manifest is damaged.
func (s *Store) publishedNow(m Manifest) (Manifest, error) {
	now, err := s.Manifest(m.Name, m.Revision)
	switch {
	case err == nil && !now.PublishedAt.Equal(m.PublishedAt):
		return now, nil
	case err == nil, errors.Is(err, ErrCorrupt):
		return m, nil
	case !errors.Is(err, ErrNotFound):
		return m, err
	}
	withdrawn, err := s.withdrawnOf(m.Name)
	if err != nil {
		return m, err
	}
	if slices.ContainsFunc(withdrawn, func(w Manifest) bool { return w.Revision == m.Revision }) {
		return m, nil
	}
	return m, fmt.Errorf("%s@%s: it was removed: %w", m.Name, m.Revision, ErrNotFound)
}
