package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
)

const shard = "model-00001-of-00002.safetensors"

// What passes is ridden out, and costs no more than it must.
func TestPullThroughFaults(t *testing.T) {
	const size = 3 << 20
	cdn := fetchertest.Match{Kind: fetchertest.KindCDN, File: shard}
	resolve := fetchertest.Match{Kind: fetchertest.KindResolve, File: shard}
	for name, c := range map[string]struct {
		fault   fetchertest.Fault
		extra   int64         // bytes of the shard that come twice
		atLeast time.Duration // and how long it takes
		ranges  []string      // of the requests to the CDN
	}{
		"one wrong byte":    {fault: fetchertest.Fault{Match: cdn, Times: 1, Effect: fetchertest.WrongByte(12345)}, extra: size, ranges: []string{"bytes=0-", "bytes=0-"}},
		"cut":               {fault: fetchertest.Fault{Match: cdn, Times: 1, Effect: fetchertest.CutAfter(1_200_000)}, ranges: []string{"bytes=0-", "bytes=1200000-"}},
		"cut again":         {fault: fetchertest.Fault{Match: cdn, Times: 3, Effect: fetchertest.CutAfter(600_000)}, ranges: []string{"bytes=0-", "bytes=600000-", "bytes=1200000-", "bytes=1800000-"}},
		"cut before a byte": {fault: fetchertest.Fault{Match: cdn, Times: 2, Effect: fetchertest.CutAfter(0)}, ranges: []string{"bytes=0-", "bytes=0-", "bytes=0-"}},
		"stall":             {fault: fetchertest.Fault{Match: cdn, Times: 1, Effect: fetchertest.StallAfter(700_000)}, atLeast: 500 * time.Millisecond, ranges: []string{"bytes=0-", "bytes=700000-"}},
		"expired signature": {fault: fetchertest.Fault{Match: cdn, Times: 1, Effect: fetchertest.ExpiredSignature()}, ranges: []string{"bytes=0-", "bytes=0-"}},
		"500":               {fault: fetchertest.Fault{Match: resolve, Times: 2, Effect: fetchertest.Status(http.StatusInternalServerError)}, ranges: []string{"bytes=0-"}},
		"503 of the CDN":    {fault: fetchertest.Fault{Match: cdn, Times: 1, Effect: fetchertest.Status(http.StatusServiceUnavailable)}, ranges: []string{"bytes=0-", "bytes=0-"}},
		"429":               {fault: fetchertest.Fault{Match: resolve, Times: 1, Effect: fetchertest.RateLimited("resolvers", time.Second)}, atLeast: 2 * time.Second, ranges: []string{"bytes=0-"}},
		"429 of the list":   {fault: fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindTree}, Times: 1, Effect: fetchertest.RateLimited("api", time.Second)}, atLeast: 2 * time.Second, ranges: []string{"bytes=0-"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			e := newEnv(t, fetchertest.HubOptions{})
			tree := bigTree(1, size)
			commit := e.push(repoID, tree)
			e.hub.Inject(c.fault)
			f := e.fetcher(func(o *fetcher.Options) {
				o.Jobs = 1           // a connection that has nothing to do may take a part of what is slow
				if name == "stall" { // others would take a busy machine for one
					o.StallTimeout = 500 * time.Millisecond
				}
			})
			res, err := f.Pull(t.Context(), request("tiny", ""))
			if err != nil {
				t.Fatal(err)
			}
			if res.DownloadedBytes != treeBytes(tree)+c.extra {
				t.Errorf("%d bytes downloaded, want %d", res.DownloadedBytes, treeBytes(tree)+c.extra)
			}
			if res.Duration < c.atLeast {
				t.Errorf("took %s, want at least %s", res.Duration, c.atLeast)
			}
			// They are logged when they end, which for a stalled one is late.
			waitFor(t.Context(), t, "the Hub's log", func() bool { return len(e.hub.Requests(cdn)) >= len(c.ranges) })
			var ranges []string
			for _, r := range e.hub.Requests(cdn) {
				ranges = append(ranges, r.Range)
			}
			slices.Sort(ranges)
			if slices.Sort(c.ranges); !slices.Equal(ranges, c.ranges) {
				t.Errorf("asked for the ranges %q, want %q", ranges, c.ranges)
			}
			checkModel(t, res.Path, tree)
			if got := checkStore(t, e.dir); !got["tiny@"+commit] {
				t.Errorf("published %v", got)
			}
		})
	}
}

// A host that answers every range with the whole file is read from the front,
// over one connection; so it is when the pull is taken up again.
func TestPullFromHostWithoutRanges(t *testing.T) {
	const size = 40 << 20
	e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: 64 << 20})
	tree := fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}")), "model.safetensors": fetchertest.Bytes(random(1, size))}
	e.push(repoID, tree)
	e.hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Effect: fetchertest.IgnoreRange()})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := request("tiny", "")
	req.Progress = func(p fetcher.Progress) {
		if p.BytesDone > size/4 {
			cancel()
		}
	}
	if _, err := e.fetcher(nil).Pull(ctx, req); !errors.Is(err, context.Canceled) {
		t.Fatalf("the first pull ends with %v", err)
	}
	e.hub.SetBytesPerSecond(0)
	checkModel(t, e.mustPull(request("tiny", "")).Path, tree)
	checkStore(t, e.dir)
}

func TestPullWrongBytes(t *testing.T) {
	for name, file := range map[string]string{"large": shard, "small": "config.json"} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, fetchertest.HubOptions{})
			tree := bigTree(1, 200_000)
			commit := e.push(repoID, tree)
			stop := e.hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Method: http.MethodGet, File: file}, Effect: fetchertest.WrongByte(3)})
			_, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
			if !errors.Is(err, fetcher.ErrCorrupt) || fetcher.Hint(err) == "" || !strings.Contains(err.Error(), file) {
				t.Fatalf("pull ends with %v", err)
			}
			kind := fetchertest.KindCDN
			if name == "small" {
				kind = fetchertest.KindResolve
			}
			if r := e.hub.Requests(fetchertest.Match{Kind: kind, File: file}); len(r) != 2 {
				t.Errorf("fetched %d times, want 2", len(r))
			}
			if got := checkStore(t, e.dir); len(got) > 0 {
				t.Errorf("published %v", got)
			}
			if _, err := e.store().Lookup("tiny"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Lookup: %v", err)
			}
			if below := mustGlob(t, filepath.Join(e.dir, "models", "*")); len(below) > 0 {
				t.Errorf("visible: %q", below)
			}
			stop()
			if res := e.mustPull(request("tiny", "")); res.DownloadedBytes > treeBytes(tree) {
				t.Errorf("downloaded %d bytes", res.DownloadedBytes)
			}
			if got := checkStore(t, e.dir); !got["tiny@"+commit] {
				t.Errorf("published %v", got)
			}
		})
	}
}

// A hub that is down for good ends the pull, and what came stays.
func TestPullGivesUp(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := bigTree(1, 2<<20)
	e.push(repoID, tree)
	down := e.hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN, File: shard}, Skip: 1, Effect: fetchertest.CutAfter(0)})
	e.hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN, File: shard}, Times: 1, Effect: fetchertest.CutAfter(1_500_000)})
	f := e.fetcher(func(o *fetcher.Options) { o.Attempts = 2 })
	if _, err := f.Pull(t.Context(), request("tiny", "")); !errors.Is(err, fetcher.ErrTransient) {
		t.Fatalf("pull ends with %v", err)
	}
	checkStore(t, e.dir)
	down()
	e.hub.ResetLog()
	e.mustPull(request("tiny", ""))
	// The one of the two that was cut was the first at 1,500,000.
	if sent := e.hub.BytesSent(fetchertest.Match{Kind: fetchertest.KindCDN, File: shard}); sent > 2<<20-1_500_000 {
		t.Errorf("the CDN sent %d bytes of the shard again", sent)
	}
}

func TestPullRefused(t *testing.T) {
	for name, c := range map[string]struct {
		repo, revision string
		gated, private bool
	}{
		"no such repository": {repo: "acme/nothing"},
		"no such revision":   {repo: repoID, revision: "v9"},
		"no such commit":     {repo: repoID, revision: strings.Repeat("0", 40)},
		"private":            {repo: repoID, private: true},
		"gated":              {repo: repoID, gated: true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, fetchertest.HubOptions{})
			e.push(repoID, bigTree(1, 1000))
			e.hub.AddRepo(repoID, fetchertest.RepoOptions{Private: c.private, Gated: c.gated})
			start := time.Now()
			_, err := e.fetcher(nil).Pull(t.Context(), fetcher.Request{Name: "tiny", Source: hubSource(c.repo, c.revision)})
			if !errors.Is(err, fetcher.ErrRefused) || !fetcher.Permanent(err) || fetcher.Hint(err) == "" || !strings.Contains(err.Error(), c.repo) {
				t.Errorf("pull ends with %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("a refusal took %s", took)
			}
			if got := checkStore(t, e.dir); len(got) > 0 {
				t.Errorf("published %v", got)
			}
		})
	}
}

// A model that is refused from now on stays as it is.
func TestPullRefusedLater(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	commit := e.push(repoID, bigTree(1, 1000))
	e.mustPull(request("tiny", ""))
	e.hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true})
	if _, err := e.fetcher(nil).Pull(t.Context(), request("tiny", "")); !errors.Is(err, fetcher.ErrRefused) {
		t.Errorf("pull ends with %v", err)
	}
	if got := checkStore(t, e.dir); !got["tiny@"+commit] {
		t.Errorf("published %v", got)
	}
}

// Whatever names a source gives its files, nothing is written outside the
// store, and nothing inside either.
func TestPullHostileNames(t *testing.T) {
	for path, kind := range map[string]error{
		"../../../escaped": fetcher.ErrCorrupt, "/tmp/escaped": fetcher.ErrCorrupt, "a/../../escaped": fetcher.ErrCorrupt, "..": fetcher.ErrCorrupt,
		"a\\u0000b": fetcher.ErrCorrupt, "a\\nb": fetcher.ErrCorrupt,
		// These are no tricks, only names that no file can have here.
		`..\escaped`: fetcher.ErrRefused, strings.Repeat("a", 4096): fetcher.ErrRefused, ".": fetcher.ErrRefused,
		"config.json/x": fetcher.ErrRefused, ".stoker-tmp-x": fetcher.ErrRefused,
	} {
		e := newEnv(t, fetchertest.HubOptions{})
		e.push(repoID, bigTree(1, 1000))
		e.store()
		before := snapshot(t, filepath.Dir(e.dir))
		quoted := strings.ReplaceAll(path, `..\`, `..\\`)
		entry := func(path string) string {
			return fmt.Sprintf(`{"type":"file","path":"%s","size":2,"oid":"9e26dfeeb6e641a33dae4961196235bdb965b21b"}`, path)
		}
		e.hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindTree}, Effect: fetchertest.Answer(200, nil, "["+entry("config.json")+","+entry(quoted)+"]")})
		_, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
		if !errors.Is(err, kind) {
			t.Errorf("%.40q: pull ends with %v, want %v", path, err, kind)
		}
		// The lock of the model is all that may be new.
		after := strings.ReplaceAll(snapshot(t, filepath.Dir(e.dir)), "-rw------- /store/agent/locks/model-tiny.lock 0 \n", "")
		if after != before {
			t.Errorf("%.40q: before:\n%s\nafter:\n%s", path, before, after)
		}
	}
}

// A source that claims another model's content, with a size that it cannot
// have, must not take that model down.
func TestPullFalseClaim(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := bigTree(1, 100_000)
	commit := e.push(repoID, tree)
	e.mustPull(request("good", ""))
	sum, err := tree[shard].SHA256()
	if err != nil {
		t.Fatal(err)
	}
	e.push("evil/model", bigTree(2, 1000))
	for _, size := range []int{1, 100_001} {
		stop := e.hub.Inject(fetchertest.Fault{
			Match:  fetchertest.Match{Kind: fetchertest.KindTree},
			Effect: fetchertest.Answer(200, nil, fmt.Sprintf(`[{"type":"file","path":"x.safetensors","size":%d,"oid":"%040d","lfs":{"oid":"%s","size":%d}}]`, size, 0, sum, size)),
		})
		_, err = e.fetcher(nil).Pull(t.Context(), fetcher.Request{Name: "evil", Source: hubSource("evil/model", "")})
		if !errors.Is(err, fetcher.ErrCorrupt) {
			t.Errorf("size %d: pull ends with %v", size, err)
		}
		stop()
	}
	if got := checkStore(t, e.dir); len(got) != 1 || !got["good@"+commit] {
		t.Errorf("published %v", got)
	}
	m, err := e.store().Lookup("good")
	if err == nil {
		err = e.store().Check(t.Context(), m)
	}
	if err != nil {
		t.Error(err)
	}
}

// Ending a pull keeps what came.
func TestPullCanceled(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: 16 << 20})
	tree := bigTree(1, 8<<20)
	commit := e.push(repoID, tree)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := request("tiny", "")
	req.Progress = func(p fetcher.Progress) {
		if p.BytesDone > 4<<20 {
			cancel()
		}
	}
	if _, err := e.fetcher(nil).Pull(ctx, req); !errors.Is(err, context.Canceled) {
		t.Fatalf("pull ends with %v", err)
	}
	if got := checkStore(t, e.dir); len(got) > 0 {
		t.Errorf("published %v", got)
	}
	e.hub.SetBytesPerSecond(0)
	res := e.mustPull(request("tiny", ""))
	if res.DownloadedBytes > treeBytes(tree)-4<<20 {
		t.Errorf("%d of %d bytes were downloaded after more than 4 MiB had come", res.DownloadedBytes, treeBytes(tree))
	}
	if got := checkStore(t, e.dir); !got["tiny@"+commit] {
		t.Errorf("published %v", got)
	}
}
