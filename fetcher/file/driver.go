package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
type Driver struct{}

// New makes a driver.
func New() *Driver { return &Driver{} }

// List implements [fetcher.Driver]: every regular file below the directory,
// hidden ones too. Symlinks are followed only to regular files, also outside
// the directory (the Hub's own cache is made of such); one that leads to a
// directory, or to nothing, and files that are no files (pipes, sockets,
// devices) are refused by name, because leaving them out would be a short
// list.
func (d *Driver) List(ctx context.Context, src fetcher.Source) (fetcher.Listing, error) {
	op := operation{"list", src.String()}
	if src.Scheme != fetcher.SchemeFile || !filepath.IsAbs(src.Path) {
		return fetcher.Listing{}, op.fail(fetcher.ErrRefused, errors.New("it is no directory"), "write it as file:///DIR")
	}
	// The directory itself may be a symlink, which WalkDir would not enter.
	root, err := filepath.EvalSymlinks(src.Path)
	if err != nil {
		return fetcher.Listing{}, op.classify(err)
	}
	info, err := os.Stat(root)
	if err != nil {
		return fetcher.Listing{}, op.classify(err)
	}
	if !info.IsDir() {
		return fetcher.Listing{}, op.fail(fetcher.ErrRefused, errors.New("it is no directory"), "name the directory that holds the model's files")
	}
	var files []fetcher.File
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("list %s: %w", src, ctx.Err())
		}
		if err != nil {
			return op.classify(err)
		}
		if entry.IsDir() {
			return nil
		}
		f, err := op.describe(root, path)
		files = append(files, f)
		return err
	})
	if err != nil {
		return fetcher.Listing{}, err
	}
	return fetcher.Listing{Revision: revision(files), Files: files}, nil
}

// describe stats one file, following symlinks.
func (op operation) describe(root, path string) (fetcher.File, error) {
	name, err := filepath.Rel(root, path)
	if err != nil {
		return fetcher.File{}, op.classify(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fetcher.File{}, op.classify(err)
	}
	if !info.Mode().IsRegular() {
		return fetcher.File{}, op.fail(fetcher.ErrRefused, fmt.Errorf("%s is %s, not a regular file", name, kindOf(info.Mode())), "remove it, or copy in what it stands for")
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
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return op.fail(fetcher.ErrRefused, err, "check the path, and that the volume is mounted here")
	case errors.Is(err, fs.ErrPermission):
		return op.fail(fetcher.ErrRefused, err, "let this user read it")
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		return op.fail(fetcher.ErrRefused, err, "check the path")
	}
	return op.fail(fetcher.ErrTransient, err, "check the disk or the volume")
}
