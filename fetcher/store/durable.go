package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// makeDir makes dir, which is below the store, and every folder on the way a
// real directory, readable by the world whatever the umask, and makes new names
// durable. Below the store's own folders, a link or file in a directory's place
// is removed: it could lead out of the store. The store's directory itself and its
// own folders are never made here: when its volume is gone, that has to be an
// error, and nothing is to be left in its place.
func (s *Store) makeDir(dir string) error { return s.makeDirs(dir, true) }

// makeDirs is makeDir; unless durable, the caller syncs the folders that get new
// names.
func (s *Store) makeDirs(dir string, durable bool) error {
	rel, err := filepath.Rel(s.dir, dir)
	if err != nil {
		return err
	}
	if !filepath.IsLocal(rel) {
		return fmt.Errorf("make folder %s: it is outside the store: %w", dir, ErrCorrupt)
	}
	at := s.dir
	for i, part := range strings.Split(rel, string(filepath.Separator)) {
		at = filepath.Join(at, part)
		if i == 0 {
			if _, err := os.Lstat(at); err != nil {
				return asStoreError(err)
			}
		}
		err := makeRealDir(at, durable)
		if errors.Is(err, errNoFolder) && i > 0 {
			if err = s.removeIfExists(at); err == nil {
				err = makeRealDir(at, durable)
			}
		}
		if err != nil {
			return asStoreError(err)
		}
	}
	return nil
}

// errNoFolder says that something else is where a folder should be.
var errNoFolder = errors.New("is not a directory; move it away")

// makeRealDir makes one folder; errNoFolder.
func makeRealDir(dir string, durable bool) error {
	err := os.Mkdir(dir, dirMode) //nolint:forbidigo // an empty folder promises nothing, whoever makes it
	if err == nil {
		if err := openToAll(dir, false); err != nil || !durable {
			return err
		}
		return syncDir(filepath.Dir(dir))
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return openToAll(dir, false)
	}
	return fmt.Errorf("%s %w", dir, errNoFolder)
}

// isRealDir says whether a directory is there, and no link to one. Nothing there
// is no error, but everything else that keeps it from being seen.
func isRealDir(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := openDir(dir, 0)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// writeFile replaces a file atomically: a reader sees the old content or the
// new. With durable, it survives a power cut once writeFile has returned, and was
// read back where the file system is not [Volume.Local].
func (s *Store) writeFile(path string, data []byte, durable bool) (err error) {
	dir := filepath.Dir(path)
	tmp, err := s.tempFile(dir)
	if err != nil {
		return asStoreError(err)
	}
	defer func() {
		if err != nil {
			_ = dropTemp(tmp.Name()) // best effort: gc collects what stays
		}
	}()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(fileMode)
	}
	if err == nil && durable {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return asStoreError(err)
	}
	if durable {
		if err = s.readBackFile(tmp.Name(), data); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err = s.moveOver(tmp.Name(), path); err != nil {
		return asStoreError(err)
	}
	if durable {
		return asStoreError(syncDir(dir))
	}
	return nil
}

func (s *Store) writeJSON(path string, v any, durable bool) error {
	data, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return s.writeFile(path, data, durable)
}

// updateJSON is updateFile for JSON.
func (s *Store) updateJSON(path string, v any) error {
	data, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return s.updateFile(path, data)
}

// updateFile is writeFile, durable, that leaves a file alone which has the same
// content already: gc has to work on a disk that is full, and on a network file
// system, replacing what others have open may wait for them.
func (s *Store) updateFile(path string, data []byte) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() && shown(info, fileMode&^0o200) {
		if have, err := s.readSmall(path, maxList); err == nil && bytes.Equal(have, data) {
			return asStoreError(syncDir(filepath.Dir(path))) // a kill may have come before that
		}
	}
	return s.writeFile(path, data, true)
}

func encodeJSON(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	return append(data, '\n'), err
}

// unmarshal decodes what was read from path; ErrCorrupt.
func unmarshal(path string, data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", path, ErrCorrupt, err)
	}
	return nil
}

// tempPrefix marks files and links that are renamed into place; gc removes
// what a crash left behind, so no file of a model may be called so.
const tempPrefix = ".stoker-tmp-"
