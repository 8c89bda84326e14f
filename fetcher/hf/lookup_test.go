package hf_test

import (
	"net/http"
	"testing"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// A look-up is answered by the commit alone, and by nothing where it has not moved.
func TestLookUpIsSmall(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	first := push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	expect := func(want string, status int, bytes int64) {
		t.Helper()
		got, err := d.Resolve(t.Context(), source(""))
		if err != nil || got != want {
			t.Fatalf("looked up %q, %v, want %q", got, err, want)
		}
		asked := hub.Requests(fetchertest.Match{Kind: fetchertest.KindInfo})
		if last := asked[len(asked)-1]; last.Status != status || last.Bytes > bytes {
			t.Errorf("answered %d with %d bytes, want %d and at most %d", last.Status, last.Bytes, status, bytes)
		}
	}
	expect(first, http.StatusOK, 150)
	expect(first, http.StatusNotModified, 0)
	files := tiny()
	files["config.json"] = []byte("another")
	second := push(t, hub, files)
	expect(second, http.StatusOK, 150)
	expect(second, http.StatusNotModified, 0)
	if n := len(hub.Requests(fetchertest.Match{})); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

// An endpoint that does not know the short question is asked it once.
func TestLookUpOfMirrors(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: fetchertest.Mirror{NoExpand: http.StatusBadRequest}})
	want := push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	for range 3 {
		if got, err := d.Resolve(t.Context(), source("")); err != nil || got != want {
			t.Fatalf("looked up %q, %v, want %q", got, err, want)
		}
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindInfo})); n != 4 {
		t.Errorf("%d look-ups, want 4", n)
	}
}
