package gcs_test

import (
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

func TestPull(t *testing.T) {
	s := startServer(t)
	fetchertest.TestPull(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
		t.Helper()
		return s.fixture(newDriver(t, fetcher.Access{}, gcs.Options{}), s.fill(t, "llama", files), "llama")
	})
}
