package main

import (
	"context"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/stoker-project/stoker/fetcher"
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
	s := &sourceFS{ctx: ctx, driver: d, source: src, revision: l.Revision, files: map[string]fetcher.File{}}
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
	body, err := s.driver.Open(s.ctx, fetcher.Object{Source: s.source, Revision: s.revision, File: f}, 0, f.Size)
	if err != nil {
		return nil, err
	}
	return &sourceFile{ReadCloser: body, info: fileInfo{f}}, nil
}

// ReadDir implements fs.ReadDirFS for the root; fs.ReadDir sorts nothing here,
// so this does.
func (s *sourceFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var entries []fs.DirEntry
	for _, p := range slices.Sorted(maps.Keys(s.files)) {
		if path.Dir(p) == "." {
			entries = append(entries, fs.FileInfoToDirEntry(fileInfo{s.files[p]}))
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

type sourceFile struct {
	io.ReadCloser
	info fileInfo
}

// Stat implements fs.File.
func (f *sourceFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// fileInfo is a listed file as fs.FileInfo.
type fileInfo struct{ f fetcher.File }

func (i fileInfo) Name() string     { return path.Base(i.f.Path) }
func (i fileInfo) Size() int64      { return i.f.Size }
func (fileInfo) Mode() fs.FileMode  { return 0o444 }
func (fileInfo) ModTime() time.Time { return time.Time{} }
func (fileInfo) IsDir() bool        { return false }
func (fileInfo) Sys() any           { return nil }
