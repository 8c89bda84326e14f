package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/store"
)

// files are enough of them that some are verified after what a test does once the
// first has been read.
func manyFiles(shared string) map[string]string {
	files := map[string]string{"zz.safetensors": shared}
	for i := range 8 {
		files[fmt.Sprintf("sub-%d/a.json", i)] = fmt.Sprint("own content ", i)
	}
	return files
}

// once has do done when the first bytes are read.
func once(do func()) func(int) {
	done := false
	return func(int) {
		if !done {
			done = true
			do()
		}
	}
}

// What another process does to a model while it is verified is no damage, whether
// it has only begun to or has ended, and in a store that may be written or not.
func TestVerifyBesideOthers(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(t *testing.T, other *store.Store)
		removed bool
	}{
		"rm": {func(t *testing.T, other *store.Store) {
			t.Helper()
			must(t, other.Remove(t.Context(), "tiny"))
		}, true},
		"rm and gc": {func(t *testing.T, other *store.Store) {
			t.Helper()
			must(t, other.Remove(t.Context(), "tiny"))
			gc(t, other, 0)
		}, true},
		"rm that was killed before it removed the links": {func(t *testing.T, other *store.Store) {
			t.Helper()
			must(t, os.RemoveAll(filepath.Join(other.Dir(), "manifests/tiny")))
			must(t, os.Remove(filepath.Join(other.Path("tiny", commitA), "zz.safetensors")))
		}, true},
		"rm, gc and a pull": {func(t *testing.T, other *store.Store) {
			t.Helper()
			must(t, other.Remove(t.Context(), "tiny"))
			gc(t, other, 0)
			publish(t, other, "tiny", repo, commitA, manyFiles("shared"))
		}, false},
		"a pull of fewer files": {func(t *testing.T, other *store.Store) {
			t.Helper()
			publish(t, other, "tiny", repo, commitA, map[string]string{"zz.safetensors": "shared"})
			gc(t, other, 0)
		}, false},
	} {
		for _, open := range []func(string) (*store.Store, error){store.Open, store.OpenReadOnly} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				other := newStore(t)
				publish(t, other, "second", "s3://bucket/x", "r1", map[string]string{"x.safetensors": "shared"})
				m := publish(t, other, "tiny", repo, commitA, manyFiles("shared"))
				s, err := open(other.Dir())
				must(t, err)
				res, err := s.Verify(t.Context(), m, once(func() { c.do(t, other) }))
				if errors.Is(err, store.ErrNotFound) != c.removed || err != nil && !c.removed || len(res.Problems) > 0 {
					t.Errorf("Verify: %+v, %v", res, err)
				}
				if checked := s.Check(t.Context(), m); errors.Is(checked, store.ErrNotFound) != c.removed || checked != nil && !c.removed {
					t.Errorf("Check: %v", checked)
				}
				if got := withdrawn(t, s); got != "" {
					t.Errorf("withdrawn %q", got)
				}
				if aside, err := filepath.Glob(s.AgentFile("quarantine/*")); err != nil || len(aside) > 0 {
					t.Errorf("quarantined %q, %v", aside, err)
				}
				second, err := s.Lookup("second")
				must(t, err)
				res, err = s.Verify(t.Context(), second, nil)
				if err != nil || len(res.Problems) > 0 {
					t.Errorf("Verify of what shares a blob: %+v, %v", res, err)
				}
			})
		}
	}
}

// What is missing of a model that is published still is a finding, also when
// another model is removed meanwhile.
func TestVerifyFindsWhatIsMissingBesideRemovals(t *testing.T) {
	s := newStore(t)
	publish(t, s, "other", "s3://bucket/x", "r1", map[string]string{"x.safetensors": "other"})
	m := publish(t, s, "tiny", repo, commitA, manyFiles("shared"))
	res, err := s.Verify(t.Context(), m, once(func() {
		must(t, s.Remove(t.Context(), "other"))
		gc(t, s, 0)
		must(t, os.Remove(s.BlobPath(sumOf("shared"))))
	}))
	must(t, err)
	if len(res.Problems) != 1 || !strings.HasSuffix(res.Problems[0].Reason, "is missing") {
		t.Errorf("Verify: %+v", res)
	}
	if got := withdrawn(t, s); got != "tiny@"+commitA {
		t.Errorf("withdrawn %q", got)
	}
}

// A verify beside another that withdraws the model finds it wrong as well.
func TestVerifyBesideAVerify(t *testing.T) {
	s := newStore(t)
	m := publish(t, s, "tiny", repo, commitA, manyFiles("shared"))
	must(t, os.Truncate(s.BlobPath(sumOf("shared")), 1))
	res, err := s.Verify(t.Context(), m, once(func() {
		res, err := open(t, s.Dir()).Verify(t.Context(), m, nil)
		if err != nil || len(res.Problems) != 1 {
			t.Errorf("the other Verify: %+v, %v", res, err)
		}
	}))
	if err != nil || len(res.Problems) != 1 {
		t.Errorf("Verify: %+v, %v", res, err)
	}
}
