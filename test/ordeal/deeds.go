package ordeal

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Victim is a file of a model, chosen by numbers so that a seed means the same
// whatever is on the disk.
type Victim struct {
	Name     string
	Commit   string
	Path     string
	SHA256   string
	Blob     string
	Link     string
	Manifest string
}

// VictimOf finds the file that share (in [0,1)) of a commit's files chooses.
func (s *Source) VictimOf(dir, name, commit string, share float64) Victim {
	files := s.Files(commit)
	paths := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(p string) bool { return strings.HasPrefix(p, ".") })
	path := paths[int(share*float64(len(paths)))]
	return Victim{
		Name: name, Commit: commit, Path: path, SHA256: files[path].SHA256,
		Blob:     filepath.Join(dir, "blobs", "sha256", files[path].SHA256),
		Link:     filepath.Join(dir, "models", name, commit, path),
		Manifest: filepath.Join(dir, "manifests", name, commit+".json"),
	}
}

// Deed breaks one file.
type Deed struct {
	Name string
	// Blob says that it hits all models that share the content, and costs it.
	Blob bool
	Do   func(v Victim) error
	// Silent says that only reading shows it.
	Silent bool
}

// Deeds are what may be done to a file.
func Deeds() []Deed {
	return []Deed{
		{Name: "a byte of the blob is overwritten", Blob: true, Do: func(v Victim) error { return flip(v.Blob) }},
		{Name: "the blob is deleted", Blob: true, Do: func(v Victim) error { return os.Remove(v.Blob) }},
		{Name: "the blob is cut in half", Blob: true, Do: func(v Victim) error {
			info, err := os.Stat(v.Blob)
			if err != nil {
				return err
			}
			return os.Truncate(v.Blob, info.Size()/2)
		}},
		{Name: "the blob is longer", Blob: true, Do: func(v Victim) error { return appendTo(v.Blob, "more") }},
		{Name: "the blob is replaced", Blob: true, Do: func(v Victim) error { return replaceFile(v.Blob, 0) }},
		{Name: "the blob is replaced by one of its size", Blob: true, Do: func(v Victim) error {
			info, err := os.Stat(v.Blob)
			if err != nil {
				return err
			}
			return replaceFile(v.Blob, info.Size())
		}},
		{Name: "the blob is replaced by a folder", Blob: true, Do: func(v Victim) error {
			return errors.Join(os.Remove(v.Blob), os.Mkdir(v.Blob, 0o755))
		}},
		{Name: "the blob is replaced by a link", Blob: true, Do: func(v Victim) error {
			return errors.Join(os.Remove(v.Blob), os.Symlink("/etc/passwd", v.Blob))
		}},
		{Name: "the manifest is deleted", Blob: false, Do: func(v Victim) error { return os.Remove(v.Manifest) }},
		{Name: "the manifest is garbled", Blob: false, Do: func(v Victim) error { return flip(v.Manifest) }},
		{Name: "the manifest is empty", Blob: false, Do: func(v Victim) error { return os.Truncate(v.Manifest, 0) }},
		{Name: "the manifests are deleted", Blob: false, Do: func(v Victim) error { return os.RemoveAll(filepath.Dir(v.Manifest)) }},
		{Name: "the link is deleted", Blob: false, Do: func(v Victim) error { return os.Remove(v.Link) }},
		{Name: "the link leads elsewhere", Blob: false, Do: func(v Victim) error {
			return errors.Join(os.Remove(v.Link), os.Symlink("/etc/passwd", v.Link))
		}},
		{Name: "the link is a file", Blob: false, Do: func(v Victim) error {
			return errors.Join(os.Remove(v.Link), os.WriteFile(v.Link, []byte("mine"), 0o644))
		}},
		{Name: "the link current is deleted", Blob: false, Do: func(v Victim) error {
			return os.Remove(filepath.Join(filepath.Dir(filepath.Dir(v.Manifest)), "..", "models", v.Name, "current"))
		}},
		{Name: "the revision's folder is deleted", Blob: false, Do: func(v Victim) error {
			return os.RemoveAll(filepath.Join(filepath.Dir(filepath.Dir(v.Manifest)), "..", "models", v.Name, v.Commit))
		}},
		{Name: "the model's folder is deleted", Blob: false, Do: func(v Victim) error {
			return os.RemoveAll(filepath.Join(filepath.Dir(filepath.Dir(v.Manifest)), "..", "models", v.Name))
		}},
		{Name: "the record of the blob is deleted", Blob: true, Do: func(v Victim) error {
			return os.Remove(filepath.Join(filepath.Dir(v.Blob), "..", "..", "agent", "verified", v.SHA256+".json"))
		}},
	}
}

// flip inverts the middle byte by an ordinary write.
func flip(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b := []byte{0}
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		if errors.Is(err, io.EOF) {
			return os.ErrNotExist // it is empty
		}
		return err
	}
	b[0] ^= 0xff
	_, err = f.WriteAt(b, info.Size()/2)
	return err
}

// RotByte inverts a byte and leaves size, modification time and inode alone.
func RotByte(v Victim) error {
	info, err := os.Lstat(v.Blob)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return os.ErrNotExist
	}
	return errors.Join(flip(v.Blob), os.Chtimes(v.Blob, time.Time{}, info.ModTime()))
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// replaceFile renames another file of so many bytes over one that is there.
func replaceFile(path string, size int64) error {
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	other := path + ".other"
	if err := os.WriteFile(other, []byte(strings.Repeat("x", int(size))), 0o444); err != nil {
		return errors.Join(err, os.Remove(other))
	}
	return os.Rename(other, path)
}
