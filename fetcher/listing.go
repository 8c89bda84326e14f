package fetcher

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/stoker-project/stoker/fetcher/store"
)

// The canonical form of a listing is one sequence of bytes for one content, so that its
// SHA-256 vouches for a listing that a third party hands over:
//
//	stoker-listing 1\n
//	STRING(revision)\n
//	STRING(path)STRING(size)STRING(digest)STRING(version)STRING(unusable)\n    for each file
//
// STRING is the length in bytes in decimal, a colon, and the bytes themselves, of any
// value ("0:" is empty). Files are sorted by the bytes of their path, which is unique.
// The size is in bytes, in decimal without leading zeros, and 0 to 2^63-1. Digest is a
// [Digest] or empty. Unusable is why the file is none that can be pulled, else empty.
const listingMagic = "stoker-listing 1\n"

// Bounds on the canonical form of a listing: far above what any model has.
const (
	// MaxListingBytes is how long a canonical form may be, in bytes.
	MaxListingBytes = 64 << 20
	// MaxListingFiles is how many files it may have.
	MaxListingFiles = 100_000
	// maxListingField bounds one string of it, in bytes.
	maxListingField = 64 << 10
)

// Canonical returns the listing's canonical form. A listing that has none (a path twice,
// a size below zero, more than the bounds) is ErrCorrupt. Source is no part of it: only
// sources whose driver is a [Resolver] have a canonical form, and those have none.
func (l Listing) Canonical() ([]byte, error) {
	if err := store.CheckRevision(l.Revision); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if len(l.Files) > MaxListingFiles {
		return nil, fmt.Errorf("the listing has %d files, more than %d: %w", len(l.Files), MaxListingFiles, ErrCorrupt)
	}
	files := slices.Clone(l.Files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	out := []byte(listingMagic)
	out = append(appendField(out, l.Revision), '\n')
	for i, f := range files {
		unusable := unusableText(f.Unusable)
		for _, s := range []string{f.Path, string(f.Digest), f.Version, unusable} {
			if len(s) > maxListingField {
				return nil, fmt.Errorf("a file has a text of %d bytes, more than %d: %w", len(s), maxListingField, ErrCorrupt)
			}
		}
		switch {
		case f.Path == "":
			return nil, fmt.Errorf("a file has no name: %w", ErrCorrupt)
		case i > 0 && files[i-1].Path == f.Path:
			return nil, fmt.Errorf("file %q is listed twice: %w", f.Path, ErrCorrupt)
		case f.Size < 0:
			return nil, fmt.Errorf("file %q has the size %d: %w", f.Path, f.Size, ErrCorrupt)
		}
		if err := f.Digest.Check(); err != nil {
			return nil, fmt.Errorf("file %q: %w: %w", f.Path, err, ErrCorrupt)
		}
		for _, s := range []string{f.Path, strconv.FormatInt(f.Size, 10), string(f.Digest), f.Version, unusable} {
			out = appendField(out, s)
		}
		if out = append(out, '\n'); len(out) > MaxListingBytes {
			return nil, fmt.Errorf("the listing has more than %d MiB: %w", MaxListingBytes>>20, ErrCorrupt)
		}
	}
	return out, nil
}

func appendField(out []byte, s string) []byte {
	out = strconv.AppendInt(out, int64(len(s)), 10)
	return append(append(out, ':'), s...)
}

// unusableText is the cause alone: what was being done, and the advice, are whose who
// reports it.
func unusableText(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e) && e.Err != nil && e.Err.Error() != "":
		return cut(e.Err.Error())
	}
	return cut(cmp.Or(err.Error(), "unusable"))
}

// CanonicalDigest returns the SHA-256 of the canonical form, as 64 lower-case hex digits.
func (l Listing) CanonicalDigest() (string, error) {
	form, err := l.Canonical()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(form)
	return hex.EncodeToString(sum[:]), nil
}

// ParseListing reads a canonical form, and nothing else: what it accepts is what
// [Listing.Canonical] returns, byte for byte. All errors are ErrCorrupt. Names in it are
// as hostile as a source's.
func ParseListing(form []byte) (Listing, error) {
	l, err := parseListing(form)
	if err != nil {
		return Listing{}, fmt.Errorf("read a listing: %w: %w", err, ErrCorrupt)
	}
	return l, nil
}

func parseListing(form []byte) (Listing, error) {
	if len(form) > MaxListingBytes {
		return Listing{}, fmt.Errorf("it has more than %d MiB", MaxListingBytes>>20)
	}
	rest, ok := bytes.CutPrefix(form, []byte(listingMagic))
	if !ok {
		return Listing{}, errors.New("it is no listing of this version")
	}
	var l Listing
	head, rest, err := cutLine(rest, 1)
	if err != nil {
		return Listing{}, err
	}
	if l.Revision = head[0]; store.CheckRevision(l.Revision) != nil {
		return Listing{}, errors.New("it has no revision")
	}
	for len(rest) > 0 {
		if len(l.Files) == MaxListingFiles {
			return Listing{}, fmt.Errorf("it has more than %d files", MaxListingFiles)
		}
		var fields []string
		if fields, rest, err = cutLine(rest, 5); err != nil {
			return Listing{}, err
		}
		f := File{Path: fields[0], Digest: Digest(fields[2]), Version: fields[3]}
		if f.Size, err = canonicalInt(fields[1]); err != nil {
			return Listing{}, err
		}
		if f.Path == "" || len(l.Files) > 0 && f.Path <= l.Files[len(l.Files)-1].Path {
			return Listing{}, errors.New("its files are not sorted by path")
		}
		if err := f.Digest.Check(); err != nil {
			return Listing{}, err
		}
		if why := fields[4]; why != "" {
			if cut(why) != why {
				return Listing{}, errors.New("it explains too long why a file is unusable")
			}
			f.Unusable = &Error{
				Kind: ErrRefused, Op: "list", Origin: strconv.Quote(f.Path), Err: errors.New(why),
				Hint: "exclude it, take it out of the repository, or name another revision",
			}
		}
		l.Files = append(l.Files, f)
	}
	return l, nil
}

// cutLine reads n strings and the end of their line.
func cutLine(form []byte, n int) (fields []string, rest []byte, err error) {
	for range n {
		// No length has more digits than the largest.
		digits, _, ok := bytes.Cut(form[:min(len(form), 8)], []byte(":"))
		if !ok {
			return nil, nil, errors.New("a text has no length")
		}
		size, err := canonicalInt(string(digits))
		form = form[len(digits)+1:]
		if err != nil || size > maxListingField || size > int64(len(form)) {
			return nil, nil, errors.New("a text has a wrong length")
		}
		fields, form = append(fields, string(form[:size])), form[size:]
	}
	if len(form) == 0 || form[0] != '\n' {
		return nil, nil, errors.New("a line does not end")
	}
	return fields, form[1:], nil
}

// canonicalInt reads a number that is written in the only way.
func canonicalInt(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, errors.New("it has a number that is none, or not in its shortest form")
	}
	return n, nil
}
