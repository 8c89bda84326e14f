package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check looks at a published revision by what stat shows, without reading its
// bytes: every file is linked to its blob, every blob is a regular file of the
// right size that has not changed since it was verified, and pods may read all
// of that, whatever uid they run as. ErrCorrupt tells the first thing that is
// wrong, and ErrNotFound that the revision was removed since m was read, which is
// nothing wrong; other errors are the file system's. If the revision was published
// anew since, that is what is looked at.
func (s *Store) Check(ctx context.Context, m Manifest) error {
	for {
		err := s.check(ctx, m)
		if err == nil || !mayBeRemoved(err) && !errors.Is(err, ErrCorrupt) {
			return err
		}
		now, nowErr := s.publishedNow(m)
		if errors.Is(nowErr, ErrNotFound) {
			return nowErr
		}
		if nowErr != nil || now.PublishedAt.Equal(m.PublishedAt) {
			return err
		}
		m = now
	}
}

func (s *Store) check(ctx context.Context, m Manifest) error {
	if err := s.checkShown(m); err != nil {
		return err
	}
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

// checkShown looks at the folders that every model needs, and at the manifest,
// which a waiting pod reads.
func (s *Store) checkShown(m Manifest) error {
	for _, dir := range []string{"", "blobs", "blobs/sha256", "models", "manifests", "manifests/" + m.Name} {
		// The store's own folder may be a link: whoever mounts it, follows it.
		info, err := os.Stat(filepath.Join(s.dir, dir))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue // what should be in it will be missed
		}
		if err = s.blame(err); err == nil && !shown(info, shownDir) {
			err = fmt.Errorf("it has mode %s, so that not every pod may read it: %w", info.Mode(), ErrCorrupt)
		}
		if err != nil {
			return fmt.Errorf("%s@%s: folder %s of the store: %w", m.Name, m.Revision, cmp.Or(dir, "."), err)
		}
	}
	info, err := os.Lstat(s.manifestPath(m.Name, m.Revision))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed, or withdrawn, since it was read
	}
	if err = s.blame(err); err == nil && !shown(info, blobMode) {
		err = fmt.Errorf("it has mode %s, so that not every pod may read it: %w", info.Mode(), ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("%s@%s: its manifest: %w", m.Name, m.Revision, err)
	}
	return nil
}

// Present looks, as anybody may who reads the store, whether every file of a
// published revision is there with its size, by the link that was published: another
// one could lead anywhere. It needs no records.
func (s *Store) Present(ctx context.Context, m Manifest) error {
	folders := map[string]bool{}
	for _, f := range m.Files {
		err := ctx.Err()
		if err == nil {
			err = s.checkLink(m, f, folders)
		}
		var info fs.FileInfo
		if err == nil {
			info, err = os.Lstat(s.BlobPath(f.SHA256))
		}
		if s.removed(err) {
			return fmt.Errorf("%s@%s: %s is missing: %w", m.Name, m.Revision, f.Path, errMissing)
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
		info, err := os.Lstat(dir)
		switch err = s.blame(err); {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), err == nil && !info.IsDir():
			return fmt.Errorf("%s@%s: the folder of %s is missing: %w", m.Name, m.Revision, f.Path, errMissing)
		case err != nil:
			return fmt.Errorf("%s@%s: the folder of %s cannot be seen: %w", m.Name, m.Revision, f.Path, err)
		case !shown(info, shownDir):
			return fmt.Errorf("%s@%s: the folder of %s has mode %s, so that not every pod may read it: %w", m.Name, m.Revision, f.Path, info.Mode(), ErrCorrupt)
		}
		folders[dir] = true
	}
	want, err := filepath.Rel(filepath.Dir(link), s.BlobPath(f.SHA256))
	if err != nil {
		return err
	}
	got, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s@%s: %s is missing: %w", m.Name, m.Revision, f.Path, errMissing)
	}
	// EINVAL is a file that is no link, ENOTDIR a file on the way.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%s@%s: %s: %w", m.Name, m.Revision, f.Path, s.blame(err))
	}
	if got != want {
		return fmt.Errorf("%s@%s: %s is not the link that was published: %w", m.Name, m.Revision, f.Path, ErrCorrupt)
	}
	return nil
}
