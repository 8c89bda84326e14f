package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// What another client removes is stale for this one: no damage where the model is
// not published any more, and none where the name leads to the content again.
func TestVerifyOfStaleFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reads   int
		removed bool
		want    error
	}{
		"once":                      {1, false, nil},
		"of a model that is gone":   {every, true, store.ErrNotFound},
		"of a model that is not":    {every, false, syscall.ESTALE},
		"once, of one that is gone": {1, true, nil}, // the bytes are there still
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, s, m := pulled(t)
			if c.removed {
				if err := os.RemoveAll(filepath.Join(s.Dir(), "manifests", "tiny")); err != nil {
					t.Fatal(err)
				}
			}
			d.lose(t, s.BlobPath(weights(m).SHA256), c.reads)
			res, err := s.Verify(t.Context(), m, nil)
			if !errors.Is(err, c.want) || len(res.Problems) > 0 {
				t.Errorf("Verify: %+v, %v; want %v", res, err, c.want)
			}
			if aside := names(t, s.AgentFile("quarantine")); len(aside) > 0 {
				t.Errorf("quarantined %v", aside)
			}
		})
	}
}

// A manifest that was replaced while it was read is read again.
func TestStaleManifest(t *testing.T) {
	t.Parallel()
	d, s, m := pulled(t)
	manifest := filepath.Join(s.Dir(), "manifests", "tiny", m.Revision+".json")
	d.lose(t, manifest, 1)
	if _, err := s.Lookup("tiny"); err != nil {
		t.Error(err)
	}
	d.lose(t, manifest, every)
	if _, err := s.Lookup("tiny"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup: %v", err)
	}
}
