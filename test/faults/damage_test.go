package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stoker-project/stoker/test/ordeal"
)

// victimOf finds the file that share (in [0,1)) of a model's files chooses.
func (w *world) victimOf(name string, share float64) ordeal.Victim {
	return w.source.VictimOf(w.disk.dir, name, w.commitOf(name), share)
}

// damages are what happens to files behind the agent's back.
func damages() []kind {
	return []kind{
		{Weight: 8, Make: func(r *rand.Rand) step {
			d, name, share := ordeal.OneOf(r, ordeal.Deeds()...), ordeal.OneOf(r, "tiny", "mid", "mid", "large", "moving", "shared", "other"), r.Float64()
			return step{Name: fmt.Sprintf("%s: %s (file at %.2f)", name, d.Name, share), Run: func(w *world) { w.doDamage(d, name, share) }}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			name, share := ordeal.OneOf(r, "tiny", "mid", "large", "moving", "shared", "other"), r.Float64()
			return step{Name: fmt.Sprintf("%s: a byte rots (file at %.2f)", name, share), Run: func(w *world) {
				w.doDamage(ordeal.Deed{Blob: true, Silent: true, Do: ordeal.RotByte}, name, share)
			}}
		}},
		{Weight: 1, Make: func(*rand.Rand) step {
			return step{Name: "the records are deleted", Run: func(w *world) {
				w.breakStore(w.names(), func() error { return os.RemoveAll(filepath.Join(w.disk.dir, "agent", "verified")) })
			}}
		}},
		{Weight: 1, Make: func(*rand.Rand) step {
			return step{Name: "the store is emptied", Run: func(w *world) { w.emptyStore() }}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			name := ordeal.OneOf(r, "tiny", "mid", "moving")
			return step{Name: name + ": its pages leave memory", Run: func(w *world) { w.forgetPages(name) }}
		}},
		{Weight: 1, Make: func(*rand.Rand) step {
			return step{Name: "pages leave memory, and there is no room for them", Run: func(w *world) { w.forget("tiny", "mid", "moving") }}
		}},
	}
}

func (w *world) doDamage(d ordeal.Deed, name string, share float64) {
	v := w.victimOf(name, share)
	hit := []string{name}
	if d.Blob {
		hit = w.sharing(v.SHA256)
		w.source.Lost(v.SHA256)
	}
	if d.Silent {
		w.rot(hit...)
	}
	w.note("%s of %s", v.Path, v.Commit)
	w.breakStore(hit, func() error { return d.Do(v) })
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
		w.source.LostAll()
		entries, err := os.ReadDir(w.disk.dir)
		for _, e := range entries {
			if e.Name() != "lost+found" && e.Name() != "filler" {
				err = errors.Join(err, os.RemoveAll(filepath.Join(w.disk.dir, e.Name())))
			}
		}
		return err
	})
}

// modelOf is the model of a manifest's path.
func modelOf(manifest string) string { return filepath.Base(filepath.Dir(manifest)) }
