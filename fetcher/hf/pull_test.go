package hf_test

import (
	"testing"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

func TestPull(t *testing.T) {
	fetchertest.TestPull(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
		t.Helper()
		hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
		if err := hub.SetRef(repoID, "refs/pr/1", push(t, hub, files)); err != nil {
			t.Fatal(err)
		}
		return fixture(t, hub, files, "")
	})
}
