package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/fetcher/store"
)

// What a revision has superseded is to go, also if its manifest is damaged, and
// never the current one.
func TestSupersededRevisions(t *testing.T) {
	current := store.Manifest{Name: "a", Revision: "new", Source: "hf://a/a"}
	old := store.Manifest{Name: "a", Revision: "old", Source: "hf://a/a"}
	o := storeObserver{store: &fakeStore{
		models:  map[string][]store.Manifest{"a": {old, current}},
		damaged: map[string][]string{"a": {"torn", "new"}},
	}}
	got, err := o.old(current)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]store.Manifest{old, {Name: "a", Revision: "torn"}}, got); diff != "" {
		t.Error(diff)
	}
}
