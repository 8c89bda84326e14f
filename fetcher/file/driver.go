package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/stoker-project/stoker/fetcher"
)

// Driver reads directories. It implements [fetcher.Driver]. A read from a
// volume that hangs cannot be ended by a context: no system call for it
// exists.
type Driver struct {
	followLinks []string
}

// New makes a driver. Links in a directory are followed below the directory itself,
// where that is a snapshot of the Hub's own cache to the repository's blobs, and below
// these directories, which are absolute paths.
func New(followLinks ...string) *Driver { return &Driver{followLinks: followLinks} }

// List implements [fetcher.Driver]: every regular file below the directory,
// hidden ones too. Symlinks are followed only to regular files, and only where [New]
// lets them end; one that leads elsewhere, to a directory, or to nothing, and files
// that are no files (pipes, sockets, devices) are listed as unusable, because leaving
// them out would be a short list. A hard link cannot be told from a file.
func (d *Driver) List(ctx context.Context, src fetcher.Source) (fetcher.Listing, error) {
	op := operation{"list", src.String()}
	if src.Scheme != fetcher.SchemeFile || !filepath.IsAbs(src.Path) {
		return fetcher.Listing{}, op.fail(fetcher.ErrRefused, errors.New("it is no directory"), "write it as file:///DIR")
	}
	t, err := openTree(op, src.Path, d.followLinks)
	if err != nil {
		return fetcher.Listing{}, err
	}
	var files []fetcher.File
	err = t.walk(func(name string, info fs.FileInfo) error {
		if ctx.Err() != nil {
			return fmt.Errorf("list %s: %w", src, ctx.Err())
		}
		f, err := t.describe(name, info)
		files = append(files, f)
		return err
	})
	if err != nil {
		return fetcher.Listing{}, err
	}
	return fetcher.Listing{Revision: revision(files), Files: files}, nil
}

// describe lists one file, of which Lstat shows info.
func (t *tree) describe(name string, info fs.FileInfo) (fetcher.File, error) {
	unusable := fetcher.File{Path: filepath.ToSlash(name), Version: version(info)}
	if info.Mode()&fs.ModeSymlink != 0 {
		end, err := t.stat(name)
		if errors.Is(err, fetcher.ErrRefused) {
			unusable.Unusable = err
			return unusable, nil
		}
		if err != nil {
			return fetcher.File{}, err
		}
		info = end
	}
	if !info.Mode().IsRegular() {
		unusable.Unusable = t.op.fail(fetcher.ErrRefused, fmt.Errorf("%s is %s, not a regular file", name, kindOf(info.Mode())), "exclude it, remove it, or copy in what it stands for")
		return unusable, nil
	}
	return fetcher.File{Path: filepath.ToSlash(name), Size: info.Size(), Version: version(info)}, nil
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a symlink to a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// version is the modification time, as exact as the file system keeps it.
func version(info fs.FileInfo) string {
	return strconv.FormatInt(info.ModTime().UnixNano(), 10)
}

// revision digests the sorted list. Fields are quoted or numbers, so that no
// two lists are written alike.
func revision(files []fetcher.File) string {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b fetcher.File) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	for _, f := range sorted {
		_, _ = fmt.Fprintf(h, "%q %d %s\n", f.Path, f.Size, f.Version) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// operation is what errors say was being done.
type operation struct{ verb, origin string }

func (op operation) fail(kind, err error, hint string) *fetcher.Error {
	return &fetcher.Error{Kind: kind, Op: op.verb, Origin: op.origin, Err: err, Hint: hint}
}

// classify tells what somebody has to mend from what may pass (a volume that
// has a fault, too many open files).
func (op operation) classify(err error) *fetcher.Error {
	var errno syscall.Errno
	switch {
	case !errors.As(err, &errno): // links that lead to each other
		return op.fail(fetcher.ErrRefused, err, "check the path")
	case errors.Is(err, fs.ErrNotExist):
		return op.fail(fetcher.ErrRefused, err, "check the path, and that the volume is mounted here")
	case errors.Is(err, fs.ErrPermission):
		return op.fail(fetcher.ErrRefused, err, "let this user read it")
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		return op.fail(fetcher.ErrRefused, err, "check the path")
	}
	return op.fail(fetcher.ErrTransient, err, "check the disk or the volume")
}
