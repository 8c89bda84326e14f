package store_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// Content that several models share turned out wrong in a pull of one of them:
// whoever promises the others is asked first, and nothing has changed then but
// that Check tells.
func TestSharedContentIsWithdrawnWhenNobodyPromisesItAnyMore(t *testing.T) {
	s := newStore(t)
	files := map[string]string{"weights": "weights", "config.json": "{}"}
	one := publish(t, s, "one", repo, commitA, files)
	two := publish(t, s, "two", "s3://bucket/two", "r1", files)
	publish(t, s, "three", "s3://bucket/three", "old", files)
	publish(t, s, "three", "s3://bucket/three", "new", map[string]string{"weights": "other"})
	blob := s.BlobPath(sumOf("weights"))
	info, err := os.Stat(blob)
	must(t, err)
	must(t, os.Chmod(blob, 0o644))
	must(t, os.WriteFile(blob, []byte("WEIGHTS"), 0o644))
	must(t, os.Chtimes(blob, info.ModTime(), info.ModTime().Add(time.Second)))

	refuse := errors.New("the API server is away")
	var asked []string
	answer := refuse
	s.BeforeWithdraw(func(ctx context.Context, names []string) error {
		asked = names
		if err := s.Check(ctx, two); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("asked before Check tells: %v", err)
		}
		return answer
	})
	g := stage(t, s, "one")
	if _, err := g.Has(t.Context(), sumOf("weights"), 7, nil); !errors.Is(err, refuse) {
		t.Errorf("the answer was no, and the pull got %v", err)
	}
	// A superseded revision is promised by nobody.
	if want := []string{"one", "two"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	if !exists(t, blob) || len(published(t, s)) == 0 || withdrawn(t, s) != "" {
		t.Errorf("something was withdrawn before it might: %s", withdrawn(t, s))
	}
	for _, m := range []store.Manifest{one, two} {
		if _, err := s.Manifest(m.Name, m.Revision); err != nil {
			t.Error(err)
		}
	}
	answer = nil
	if here, err := g.Has(t.Context(), sumOf("weights"), 7, nil); here || err != nil {
		t.Errorf("has it: %v, %v", here, err)
	}
	if exists(t, blob) {
		t.Error("the damaged blob is still there")
	}
	closeStaging(t, g)
}
