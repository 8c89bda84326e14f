package faults

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// victim is a file of a model, chosen by numbers so that a seed means the same
// whatever is on the disk.
type victim struct {
	name     string
	commit   string
	path     string
	sha256   string
	blob     string
	link     string
	manifest string
}

// victimOf finds the file that share (in [0,1)) of a model's files chooses.
func (w *world) victimOf(name string, share float64) victim {
	commit := w.commitOf(name)
	files := w.source.files(commit)
	paths := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(p string) bool { return strings.HasPrefix(p, ".") })
	path := paths[int(share*float64(len(paths)))]
	return victim{
		name: name, commit: commit, path: path, sha256: files[path].sha256,
		blob:     filepath.Join(w.disk.dir, "blobs", "sha256", files[path].sha256),
		link:     filepath.Join(w.disk.dir, "models", name, commit, path),
		manifest: filepath.Join(w.disk.dir, "manifests", name, commit+".json"),
	}
}

// deed breaks one file.
type deed struct {
	name string
	// blob says that it hits all models that share the content, and costs it.
	blob bool
	do   func(v victim) error
	// silent says that only reading shows it.
	silent bool
}

func deeds() []deed {
	return []deed{
		{name: "a byte of the blob is overwritten", blob: true, do: func(v victim) error { return flip(v.blob) }},
		{name: "the blob is deleted", blob: true, do: func(v victim) error { return os.Remove(v.blob) }},
		{name: "the blob is cut in half", blob: true, do: func(v victim) error {
			info, err := os.Stat(v.blob)
			if err != nil {
				return err
			}
			return os.Truncate(v.blob, info.Size()/2)
		}},
		{name: "the blob is longer", blob: true, do: func(v victim) error { return appendTo(v.blob, "more") }},
		{name: "the blob is replaced", blob: true, do: func(v victim) error { return replaceFile(v.blob, 0) }},
		{name: "the blob is replaced by one of its size", blob: true, do: func(v victim) error {
			info, err := os.Stat(v.blob)
			if err != nil {
				return err
			}
			return replaceFile(v.blob, info.Size())
		}},
		{name: "the blob is replaced by a folder", blob: true, do: func(v victim) error {
			return errors.Join(os.Remove(v.blob), os.Mkdir(v.blob, 0o755))
		}},
		{name: "the blob is replaced by a link", blob: true, do: func(v victim) error {
			return errors.Join(os.Remove(v.blob), os.Symlink("/etc/passwd", v.blob))
		}},
		{name: "the manifest is deleted", blob: false, do: func(v victim) error { return os.Remove(v.manifest) }},
		{name: "the manifest is garbled", blob: false, do: func(v victim) error { return flip(v.manifest) }},
		{name: "the manifest is empty", blob: false, do: func(v victim) error { return os.Truncate(v.manifest, 0) }},
		{name: "the manifests are deleted", blob: false, do: func(v victim) error { return os.RemoveAll(filepath.Dir(v.manifest)) }},
		{name: "the link is deleted", blob: false, do: func(v victim) error { return os.Remove(v.link) }},
		{name: "the link leads elsewhere", blob: false, do: func(v victim) error {
			return errors.Join(os.Remove(v.link), os.Symlink("/etc/passwd", v.link))
		}},
		{name: "the link is a file", blob: false, do: func(v victim) error {
			return errors.Join(os.Remove(v.link), os.WriteFile(v.link, []byte("mine"), 0o644))
		}},
		{name: "the link current is deleted", blob: false, do: func(v victim) error {
			return os.Remove(filepath.Join(filepath.Dir(filepath.Dir(v.manifest)), "..", "models", v.name, "current"))
		}},
		{name: "the revision's folder is deleted", blob: false, do: func(v victim) error {
			return os.RemoveAll(filepath.Join(filepath.Dir(filepath.Dir(v.manifest)), "..", "models", v.name, v.commit))
		}},
		{name: "the model's folder is deleted", blob: false, do: func(v victim) error {
			return os.RemoveAll(filepath.Join(filepath.Dir(filepath.Dir(v.manifest)), "..", "models", v.name))
		}},
		{name: "the record of the blob is deleted", blob: true, do: func(v victim) error {
			return os.Remove(filepath.Join(filepath.Dir(v.blob), "..", "..", "agent", "verified", v.sha256+".json"))
		}},
	}
}

// damages are what happens to files behind the agent's back.
func damages() []kind {
	return []kind{
		{8, func(r *rand.Rand) step {
			d, name, share := oneOf(r, deeds()...), oneOf(r, "tiny", "mid", "mid", "large", "moving", "shared", "other"), r.Float64()
			return step{fmt.Sprintf("%s: %s (file at %.2f)", name, d.name, share), func(w *world) { w.doDamage(d, name, share) }}
		}},
		{2, func(r *rand.Rand) step {
			name, share := oneOf(r, "tiny", "mid", "large", "moving", "shared", "other"), r.Float64()
			return step{fmt.Sprintf("%s: a byte rots (file at %.2f)", name, share), func(w *world) {
				w.doDamage(deed{blob: true, silent: true, do: rotByte}, name, share)
			}}
		}},
		{1, func(*rand.Rand) step {
			return step{"the records are deleted", func(w *world) {
				w.breakStore(w.names(), func() error { return os.RemoveAll(filepath.Join(w.disk.dir, "agent", "verified")) })
			}}
		}},
		{1, func(*rand.Rand) step {
			return step{"the store is emptied", func(w *world) { w.emptyStore() }}
		}},
		{2, func(r *rand.Rand) step {
			name := oneOf(r, "tiny", "mid", "moving")
			return step{name + ": its pages leave memory", func(w *world) { w.forgetPages(name) }}
		}},
		{1, func(*rand.Rand) step {
			return step{"pages leave memory, and there is no room for them", func(w *world) { w.forget("tiny", "mid", "moving") }}
		}},
	}
}

func (w *world) doDamage(d deed, name string, share float64) {
	v := w.victimOf(name, share)
	hit := []string{name}
	if d.blob {
		hit = w.sharing(v.sha256)
		w.source.lost(v.sha256)
	}
	if d.silent {
		w.rot(hit...)
	}
	w.note("%s of %s", v.path, v.commit)
	w.breakStore(hit, func() error { return d.do(v) })
}

// breakStore does something to files, of which the checker sees all or nothing.
func (w *world) breakStore(hit []string, do func() error) {
	w.damage(hit...)
	w.diskMu.Lock()
	defer w.diskMu.Unlock()
	err := do()
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.ENOTEMPTY):
		w.note("not done: %v", err)
	case w.diskState.Load() != nil:
		w.note("not done on %s: %v", *w.diskState.Load(), err)
	default:
		w.fail("break the store: %v", err)
	}
	// What was done by hand is there after a power cut as well.
	if w.diskState.Load() == nil {
		w.must("sync", w.disk.sync())
	}
}

// emptyStore removes all that the store holds.
func (w *world) emptyStore() {
	w.breakStore(w.names(), func() error {
		w.source.lostAll()
		entries, err := os.ReadDir(w.disk.dir)
		for _, e := range entries {
			if e.Name() != "lost+found" && e.Name() != "filler" {
				err = errors.Join(err, os.RemoveAll(filepath.Join(w.disk.dir, e.Name())))
			}
		}
		return err
	})
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

// rotByte inverts a byte and leaves size, modification time and inode alone.
func rotByte(v victim) error {
	info, err := os.Lstat(v.blob)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return os.ErrNotExist
	}
	return errors.Join(flip(v.blob), os.Chtimes(v.blob, time.Time{}, info.ModTime()))
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

// modelOf is the model of a manifest's path.
func modelOf(manifest string) string { return filepath.Base(filepath.Dir(manifest)) }
