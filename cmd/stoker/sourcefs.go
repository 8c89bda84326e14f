package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// The front of a file is asked for in pieces, because a source sends what it was
// asked for, whether it is read or not: first firstPiece, which holds nearly
// every config.json and most headers of safetensors files, then as much again as
// was read, at most largestPiece. So no more than twice of what is needed comes.
const (
	firstPiece   = 64 << 10
	largestPiece = 8 << 20
)

// sourceFS shows the files of a source's revision as a file system, so that
// the front of them can be read without pulling: a file is opened at its
// beginning and closed as soon as the reader has seen enough.
type sourceFS struct {
	ctx      context.Context //nolint:containedctx // fs.FS has no other way to end a read; it lives for one command
	driver   fetcher.Driver
	source   fetcher.Source
	revision string
	files    map[string]fetcher.File
}

func newSourceFS(ctx context.Context, d fetcher.Driver, src fetcher.Source, l fetcher.Listing) *sourceFS {
	s := &sourceFS{ctx: ctx, driver: d, source: l.Of(src), revision: l.Revision, files: map[string]fetcher.File{}}
	for _, f := range l.Files {
		s.files[f.Path] = f
	}
	return s
}

// Open implements fs.FS; of folders, it knows the root only.
func (s *sourceFS) Open(name string) (fs.File, error) {
	if name == "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid} // ReadDir serves it
	}
	f, ok := s.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if f.Unusable != nil {
		return nil, f.Unusable
	}
	opened := &sourceFile{fs: s, file: f}
	if err := opened.ask(); err != nil {
		return nil, err
	}
	return opened, nil
}

// ReadDir implements fs.ReadDirFS for the root, folders included; fs.ReadDir sorts
// nothing here, so this does, by whole paths.
func (s *sourceFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var entries []fs.DirEntry
	folder := "" // the last one, of which several files may be listed
	for _, p := range slices.Sorted(maps.Keys(s.files)) {
		first, _, within := strings.Cut(p, "/")
		switch {
		case !within:
			entries = append(entries, fs.FileInfoToDirEntry(fileInfo{s.files[p]}))
		case first != folder:
			folder = first
			entries = append(entries, fs.FileInfoToDirEntry(folderInfo(first)))
		}
	}
	return entries, nil
}

// Stat implements fs.StatFS without asking the source again.
func (s *sourceFS) Stat(name string) (fs.FileInfo, error) {
	f, ok := s.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return fileInfo{f}, nil
}

// sourceFile reads one file piece by piece.
type sourceFile struct {
	fs   *sourceFS
	file fetcher.File

	body  io.ReadCloser // the piece being read
	asked int64         // where the next piece begins
}

// ask opens the next piece.
func (f *sourceFile) ask() error {
	length := min(max(firstPiece, f.asked), largestPiece, f.file.Size-f.asked)
	object := fetcher.Object{Source: f.fs.source, Revision: f.fs.revision, File: f.file}
	body, err := f.fs.driver.Open(f.fs.ctx, object, f.asked, length)
	if err != nil {
		return err
	}
	f.body, f.asked = body, f.asked+length
	return nil
}

// Read implements fs.File.
func (f *sourceFile) Read(p []byte) (int, error) {
	for {
		n, err := f.body.Read(p)
		if !errors.Is(err, io.EOF) || f.asked == f.file.Size {
			return n, err
		}
		// The piece has ended, not the file.
		if err := f.next(); err != nil {
			return n, err
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
}

func (f *sourceFile) next() error {
	if err := f.body.Close(); err != nil {
		return err
	}
	return f.ask()
}

// Close implements fs.File. It tells of a file that changed while it was read,
// where the source knows that only then.
func (f *sourceFile) Close() error { return f.body.Close() }

// Stat implements fs.File.
func (f *sourceFile) Stat() (fs.FileInfo, error) { return fileInfo{f.file}, nil }

// folderInfo is a folder of the root as fs.FileInfo.
type folderInfo string

func (i folderInfo) Name() string     { return string(i) }
func (folderInfo) Size() int64        { return 0 }
func (folderInfo) Mode() fs.FileMode  { return fs.ModeDir | 0o555 }
func (folderInfo) ModTime() time.Time { return time.Time{} }
func (folderInfo) IsDir() bool        { return true }
func (folderInfo) Sys() any           { return nil }

// fileInfo is a listed file as fs.FileInfo.
type fileInfo struct{ f fetcher.File }

func (i fileInfo) Name() string     { return path.Base(i.f.Path) }
func (i fileInfo) Size() int64      { return i.f.Size }
func (fileInfo) Mode() fs.FileMode  { return 0o444 }
func (fileInfo) ModTime() time.Time { return time.Time{} }
func (fileInfo) IsDir() bool        { return false }
func (fileInfo) Sys() any           { return nil }
