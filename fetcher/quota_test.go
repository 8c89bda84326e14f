package fetcher_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// Whoever has other models to pull gets a listing's place back at once, and nobody is
// asked for what is known to be refused.
func TestSpentQuotaYields(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{Quota: fetchertest.Quota{API: 1, Window: 20 * time.Minute}})
	want := e.push(repoID, bigTree(1, 1<<10))
	f := e.fetcher(func(o *fetcher.Options) { o.Yield = true })
	for try := range 3 {
		start := time.Now()
		_, err := f.Pull(t.Context(), request("m", ""))
		var said *fetcher.Error
		if !errors.As(err, &said) || !fetcher.QuotaOf(err).Held || time.Since(start) > 5*time.Second {
			t.Fatalf("try %d: %v after %s", try, err, time.Since(start))
		}
		if until := time.Until(fetcher.QuotaOf(err).Until); said.RetryAfter < until-time.Second || until < 19*time.Minute {
			t.Errorf("returns after %s, renewed after %s", said.RetryAfter, until)
		}
	}
	if info, tree := calls(e.hub); info != 1 || tree != 0 {
		t.Errorf("%d look-ups and %d lists, want 1 and 0", info, tree)
	}
	if _, err := f.Resolve(t.Context(), request("m", want)); err != nil {
		t.Errorf("a pinned source needs nobody: %v", err)
	}
}

// A pull that the quota of files ends in its middle is begun again without a call.
func TestListingSurvivesSpentResolves(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	want := e.push(repoID, bigTree(1, 1<<10))
	e.hub.Inject(fetchertest.Fault{
		Match: fetchertest.Match{Kind: fetchertest.KindResolve}, Skip: 1, Times: 1, Effect: fetchertest.RateLimited("resolvers", 20*time.Minute),
	})
	f := e.fetcher(nil)
	if _, err := f.Pull(t.Context(), request("m", "")); fetcher.QuotaOf(err).Requests != "file requests" {
		t.Fatal(err)
	}
	e.push(repoID, bigTree(2, 1<<10))
	e.newDriver() // which does not know that the quota is used up
	if res, err := f.Pull(t.Context(), request("m", "")); err != nil || res.Revision != want {
		t.Fatalf("pulled %s, %v, want %s", res.Revision, err, want)
	}
	if info, tree := calls(e.hub); info != 1 || tree != 1 {
		t.Errorf("%d look-ups and %d lists, want 1 and 1", info, tree)
	}
	if next, err := f.Pull(t.Context(), request("m", "")); err != nil || next.Revision == want {
		t.Errorf("what was pulled is still taken for new: %s, %v", next.Revision, err)
	}
}

// A pull asks for each content once: small files by one request each, large ones by one
// for their address, however many connections fetch them.
func TestRequestsOfAPull(t *testing.T) {
	tree := bigTree(1, 8<<20)
	tree["again.json"] = tree["config.json"]
	// Because of the third weights the index is read to choose files; it is not fetched again.
	tree["another.safetensors"] = fetchertest.Bytes([]byte("of no set"))
	tree["model.safetensors.index.json"] = fetchertest.Bytes([]byte(`{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`))
	for _, pinned := range []bool{false, true} {
		e := newEnv(t, fetchertest.HubOptions{})
		revision := e.push(repoID, tree)
		if !pinned {
			revision = ""
		}
		e.mustPull(request("m", revision))
		info, trees := calls(e.hub)
		wantInfo := 1
		if pinned {
			wantInfo = 0
		}
		if info != wantInfo || trees != 1 {
			t.Errorf("revision %q: %d look-ups and %d lists, want %d and 1", revision, info, trees, wantInfo)
		}
		if n := len(e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve})); n != 5 {
			t.Errorf("revision %q: %d requests of files for 5 contents", revision, n)
		}
	}
}
