package smallfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// DirFS is os.DirFS for a directory whose files others may have replaced: it opens
// regular files only, by opener, and follows links to them. It lists directories as that
// does.
func DirFS(dir string, opener Opener) fs.FS {
	return dirFS{fs: os.DirFS(dir), dir: dir, opener: opener}
}

type dirFS struct {
	fs     fs.FS
	dir    string
	opener Opener
}

// Open implements fs.FS.
func (d dirFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, _, err := open(filepath.Join(d.dir, filepath.FromSlash(name)), 0, d.opener)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			path.Path = name // as os.DirFS has it
		}
		return nil, err
	}
	return f, nil
}

// ReadDir implements fs.ReadDirFS.
func (d dirFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(d.fs, name) }

// Stat implements fs.StatFS.
func (d dirFS) Stat(name string) (fs.FileInfo, error) { return fs.Stat(d.fs, name) }
