package sharedfaults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stoker-project/stoker/test/ordeal"
)

// damages are what happens to files behind everybody's back.
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
				w.breakVolume(w.names(), func() error { return os.RemoveAll(filepath.Join(w.volume, "agent", "verified")) })
			}}
		}},
		{Weight: 1, Make: func(*rand.Rand) step {
			return step{Name: "the volume is emptied", Run: func(w *world) { w.emptyVolume() }}
		}},
	}
}

func (w *world) doDamage(d ordeal.Deed, name string, share float64) {
	v := w.source.VictimOf(w.volume, name, w.commitOf(name), share)
	hit := []string{name}
	if d.Blob {
		hit = w.sharing(v.SHA256)
		w.source.Lost(v.SHA256)
	}
	if d.Silent {
		w.rot(hit...)
	}
	w.note("%s of %s", v.Path, v.Commit)
	w.breakVolume(hit, func() error { return d.Do(v) })
}

// breakVolume does something to files, of which the checker sees all or nothing.
func (w *world) breakVolume(hit []string, do func() error) {
	w.damage(hit...)
	w.volumeMu.Lock()
	defer w.volumeMu.Unlock()
	err := do()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENOTEMPTY) {
		w.note("not done: %v", err)
		return
	}
	w.must("break the volume", err)
}

// emptyVolume removes all that the volume holds.
func (w *world) emptyVolume() {
	w.breakVolume(w.names(), func() error {
		w.source.LostAll()
		entries, err := os.ReadDir(w.volume)
		for _, e := range entries {
			err = errors.Join(err, os.RemoveAll(filepath.Join(w.volume, e.Name())))
		}
		return err
	})
}
