package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// writeFiles makes a model's folder.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestModelsThatCannotBeSized: of a model whose files no model has, what it needs is
// unknown, with the reason in the annotation; it stays warm, and so do others with
// what they need. It is read again an hour later, not at each look.
func TestModelsThatCannotBeSized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(t)
		good := string([]byte{2, 0, 0, 0, 0, 0, 0, 0}) + "{}"
		for name, config := range map[string]string{"a-costly": `{"a":[` + strings.Repeat("1,", 600_000) + `1]}`, "b-good": `{}`} {
			m := store.Manifest{Name: name, Revision: "1", Source: "hf://a/" + name}
			s.models[name] = []store.Manifest{m}
			writeFiles(t, s.path(name, "1"), map[string]string{"config.json": config, "model.safetensors": good})
		}
		reads := 0
		o := storeObserver{store: s, read: func(files fs.FS) (sizing.Model, error) {
			reads++
			return readSize(files)
		}}
		look := func(want int) storeView {
			t.Helper()
			view, err := o.look(t.Context(), func() {})
			if err != nil {
				t.Fatal(err)
			}
			if reads != want {
				t.Errorf("%d models were read; want %d", reads, want)
			}
			return view
		}
		view := look(2)
		if got := view.Models["a-costly"]; got.Size != nil || !errors.Is(got.SizeErr, sizing.ErrTooLarge) || got.Err != nil {
			t.Errorf("the costly one: %+v", got)
		}
		if got := view.Models["b-good"]; got.Size == nil || got.SizeErr != nil {
			t.Errorf("the good one: %+v", got)
		}
		look(2)
		time.Sleep(sizeAgain + time.Second)
		look(3)

		got := describe([]modelState{{Name: "a", Warm: true, State: StateWarm, Tier: TierDisk, SizeErr: view.Models["a-costly"].SizeErr}}, gpuWord{}, answer[storeView]{}, measuredSpeed{})
		if m := got.Models[0]; m.Need != nil || m.Fits != nil || !strings.Contains(m.NeedUnknown, "holds more than 500000 values") || m.State != StateWarm || m.Tier != TierDisk {
			t.Errorf("annotation: %+v", m)
		}
	})
}

// TestSizingEndsInTime: a volume that gives byte after byte for ever does not hold the
// look for ever.
func TestSizingEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := sizing.ReadModel(timedFS{slowFS{}, time.Now().Add(sizeTime)})
		if !errors.Is(err, errSizeTime) {
			t.Errorf("%v; want %v", err, errSizeTime)
		}
	})
}

// slowFS gives a byte a second.
type slowFS struct{}

func (slowFS) Open(string) (fs.File, error) { return slowFile{}, nil }

func (slowFS) ReadDir(string) ([]fs.DirEntry, error) { return nil, nil }

type slowFile struct{ fs.File }

func (slowFile) Close() error { return nil }

func (slowFile) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	p[0] = ' '
	return 1, nil
}
