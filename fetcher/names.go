package fetcher

import (
	"errors"
	"fmt"
	"math"
	"path"

	"github.com/stoker-project/stoker/fetcher/store"
)

// unstorable is a name that its source may have and that no file can. It is an
// ErrRefused: nothing is wrong with the source, and other files of it can be pulled.
type unstorable struct{ text string }

func (u *unstorable) Error() string { return u.text + ", so it cannot be stored as a file" }
func (u *unstorable) Unwrap() error { return ErrRefused }

// withoutFolders leaves out the empty objects that stand for a folder in which other
// files are, as some tools of buckets make them without a slash at their end.
func withoutFolders(files []File) []File {
	empty := map[string]bool{}
	for _, f := range files {
		if f.Size == 0 && f.Unusable == nil {
			empty[f.Path] = true
		}
	}
	if len(empty) == 0 {
		return files
	}
	folders := map[string]bool{}
	for _, f := range files {
		for i := range f.Path {
			if dir := f.Path[:i]; f.Path[i] == '/' && empty[dir] {
				folders[dir] = true
			}
		}
	}
	if len(folders) == 0 {
		return files
	}
	kept := make([]File, 0, len(files))
	for _, f := range files {
		if !folders[f.Path] || f.Size > 0 {
			kept = append(kept, f)
		}
	}
	return kept
}

// checkListing refuses the chosen files of a listing before any of them is used.
// Names that lead elsewhere or steer what shows them, duplicates, and sizes or digests
// that no source may give are ErrCorrupt. What is ErrRefused can be left out of the
// choice: names that no file can have, a file where another needs a folder, and what
// its driver calls unusable.
func checkListing(l Listing) error {
	if err := store.CheckRevision(l.Revision); err != nil {
		return err
	}
	seen := make(map[string]bool, len(l.Files))
	sizes := map[Digest]int64{}
	var total int64
	var odd error // a hostile name says more
	for _, f := range l.Files {
		switch problem, hostile := store.PathProblem(f.Path); {
		case hostile:
			return fmt.Errorf("%s: %w", problem, ErrCorrupt)
		case problem != "" && odd == nil:
			odd = &unstorable{problem}
		case f.Unusable != nil && odd == nil:
			odd = f.Unusable
		}
		if seen[f.Path] {
			return fmt.Errorf("file %q is listed twice: %w", f.Path, ErrCorrupt)
		}
		seen[f.Path] = true
		if f.Size < 0 || f.Size > math.MaxInt64-total {
			return fmt.Errorf("file %q has the size %d: %w", f.Path, f.Size, ErrCorrupt)
		}
		total += f.Size
		if err := f.Digest.Check(); err != nil {
			return fmt.Errorf("file %q: %w: %w", f.Path, err, ErrCorrupt)
		}
		if !f.Digest.identifies() {
			continue
		}
		if size, ok := sizes[f.Digest]; ok && size != f.Size {
			return fmt.Errorf("file %q has %d bytes and the digest of a file with %d: %w", f.Path, f.Size, size, ErrCorrupt)
		}
		sizes[f.Digest] = f.Size
	}
	if odd != nil {
		return odd
	}
	folders := map[string]bool{".": true}
	for _, f := range l.Files {
		for dir := path.Dir(f.Path); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			if seen[dir] {
				return &unstorable{fmt.Sprintf("%q is the folder of %q as well", dir, f.Path)}
			}
		}
	}
	return nil
}

// wrongList is what is wrong with the list of a source. A driver's own refusal of a
// file stays as it is.
func wrongList(src Source, err error) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	e := &Error{Kind: ErrCorrupt, Op: "check the file list of", Origin: src.String(), Err: err, Hint: "nothing was written; do not trust this source"}
	if errors.Is(err, ErrRefused) {
		e.Kind, e.Hint = ErrRefused, "exclude it, or rename it in the source"
	}
	return e
}
