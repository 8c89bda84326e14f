package hf_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPull(t *testing.T) {
	fetchertest.TestPull(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
		t.Helper()
		hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
		if err := hub.SetRef(repoID, "refs/pr/1", push(t, hub, files)); err != nil {
			t.Fatal(err)
		}
		return fixture(t, hub, fetchertest.KindCDN, files, "")
	})
}

// However large a file is, and in however many ranges it comes, it counts once
// against the Hub's limit.
func TestPullResolvesOnce(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, map[string][]byte{weights: bytes.Repeat([]byte("0123456789abcdef"), 100<<16)})
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, hub.URL(), "")
	f := fetcher.New(fetcher.Options{
		Store: s, Logger: slog.New(slog.DiscardHandler),
		Drivers: fetcher.Drivers{fetcher.SchemeHub: func(fetcher.Access) (fetcher.Driver, error) { return d, nil }},
	})
	if _, err := f.Pull(t.Context(), fetcher.Request{Name: "tiny", Source: source(""), Include: []string{"*"}}); err != nil {
		t.Fatal(err)
	}
	ranges, resolves := count(hub, fetchertest.KindCDN), count(hub, fetchertest.KindResolve)
	if ranges < 2 || resolves != 1 {
		t.Errorf("%d ranges and %d resolves, want several and 1", ranges, resolves)
	}
}
