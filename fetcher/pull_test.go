package fetcher_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPull(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := generate(t, fetchertest.ModelSpec{})
	const again = "sub/same-again.safetensors"
	tree[again] = tree["model-00001-of-00002.safetensors"]
	tree["unnamed.safetensors"] = fetchertest.Bytes([]byte("by the index"))
	tree["empty.txt"] = fetchertest.Bytes(nil)
	want := chosen(t, tree)
	delete(want, "unnamed.safetensors")
	commit := e.push(repoID, tree)

	var told []fetcher.Progress
	req := request("tiny", "")
	req.Progress = func(p fetcher.Progress) { told = append(told, p) } // one call at a time: the race detector sees it
	res := e.mustPull(req)

	if res.Revision != commit || res.Name != "tiny" || res.Source != "hf://"+repoID || res.Path != filepath.Join(e.dir, "models", "tiny", commit) {
		t.Errorf("result is %+v", res)
	}
	once := treeBytes(want) - tree[again].Size()
	if res.Bytes != treeBytes(want) || res.DownloadedBytes != once || res.Duration <= 0 {
		t.Errorf("%d bytes, %d downloaded in %s; want %d, %d", res.Bytes, res.DownloadedBytes, res.Duration, treeBytes(want), once)
	}
	checkModel(t, res.Path, want)
	if got := checkStore(t, e.dir); len(got) != 1 || !got["tiny@"+commit] {
		t.Errorf("published %v", got)
	}
	checkProgress(t, told, treeBytes(want), len(want))
	if left := mustGlob(t, filepath.Join(e.dir, "partial", "*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	// Again: nothing is downloaded.
	e.hub.ResetLog()
	if again := e.mustPull(request("tiny", "")); again.DownloadedBytes != 0 || again.Revision != commit || again.Bytes != res.Bytes {
		t.Errorf("the second pull: %+v", again)
	}
	for _, r := range e.hub.Requests(fetchertest.Match{}) {
		if r.Kind != fetchertest.KindInfo && r.Kind != fetchertest.KindTree {
			t.Errorf("the second pull asked for %s %s", r.Kind, r.Path)
		}
	}
}

func checkProgress(t *testing.T, told []fetcher.Progress, bytes int64, files int) {
	t.Helper()
	var phases []string
	for _, p := range told {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		if p.BytesDone < 0 || p.BytesDone > p.BytesTotal || p.FilesDone > p.FilesTotal {
			t.Errorf("impossible progress: %+v", p)
		}
	}
	want := []string{fetcher.PhaseListing, fetcher.PhaseVerifying, fetcher.PhasePulling, fetcher.PhasePublishing}
	if !slices.Equal(phases, want) {
		t.Errorf("phases %q, want %q", phases, want)
	}
	if last := told[len(told)-1]; last.BytesDone != bytes || last.BytesTotal != bytes || last.FilesDone != files || last.FilesTotal != files {
		t.Errorf("ended at %+v, want %d bytes and %d files", last, bytes, files)
	}
}

func mustGlob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// A warm model at a commit needs no network: also not when the Hub is down.
func TestPullPinnedAgainAsksNothing(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	commit := e.push(repoID, generate(t, fetchertest.ModelSpec{}))
	first := e.mustPull(request("tiny", commit))
	e.hub.ResetLog()
	e.hub.Inject(fetchertest.Fault{Effect: fetchertest.CutAfter(0)})
	again := e.mustPull(request("tiny", commit))
	if again.DownloadedBytes != 0 || again.Path != first.Path || again.Bytes != first.Bytes {
		t.Errorf("the second pull: %+v", again)
	}
	if r := e.hub.Requests(fetchertest.Match{}); len(r) > 0 {
		t.Errorf("the second pull asked: %+v", r)
	}
	if revision, err := e.fetcher(nil).Resolve(t.Context(), request("tiny", commit)); err != nil || revision != commit {
		t.Errorf("resolved to %s, %v", revision, err)
	}
	if r := e.hub.Requests(fetchertest.Match{}); len(r) > 0 {
		t.Errorf("resolving a commit asked: %+v", r)
	}
}

func TestPullWhatMoved(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := bigTree(1, 300_000)
	old := e.push(repoID, tree)
	e.mustPull(request("tiny", "main"))

	tree = fetchertest.Tree{"model-00002-of-00002.safetensors": tree["model-00002-of-00002.safetensors"]}
	tree["model-00001-of-00002.safetensors"] = fetchertest.Bytes(random(9, 222_222))
	tree["config.json"] = fetchertest.Bytes([]byte("{}")) // as sub/tokenizer.json was: it is here
	moved := e.push(repoID, tree)
	if got, err := e.fetcher(nil).Resolve(t.Context(), request("tiny", "main")); err != nil || got != moved {
		t.Errorf("main is %s, %v", got, err)
	}
	e.hub.ResetLog()
	res := e.mustPull(request("tiny", "main"))
	if res.Revision != moved || res.DownloadedBytes != 222_222 {
		t.Errorf("pulled %+v", res)
	}
	if sent := e.hub.BytesSent(fetchertest.Match{Kind: fetchertest.KindCDN}); sent != 222_222 {
		t.Errorf("the CDN sent %d bytes", sent)
	}
	checkModel(t, res.Path, tree)
	if got := checkStore(t, e.dir); len(got) != 2 || !got["tiny@"+old] || !got["tiny@"+moved] {
		t.Errorf("published %v, want the old revision too", got)
	}
	if m, err := e.store().Lookup("tiny"); err != nil || m.Revision != moved {
		t.Errorf("current is %s, %v", m.Revision, err)
	}

	// And back: both are here, so only the list is asked for.
	if err := e.hub.SetRef(repoID, "main", old); err != nil {
		t.Fatal(err)
	}
	if res := e.mustPull(request("tiny", "main")); res.Revision != old || res.DownloadedBytes != 0 {
		t.Errorf("pulled %+v", res)
	}
	if m, err := e.store().Lookup("tiny"); err != nil || m.Revision != old {
		t.Errorf("current is %s, %v", m.Revision, err)
	}
	checkStore(t, e.dir)
}

// Another choice of files of the same commit replaces the list.
func TestPullAnotherChoice(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := generate(t, fetchertest.ModelSpec{})
	commit := e.push(repoID, tree)
	for _, include := range [][]string{nil, {"*"}, {"*.json"}, {"*.json", "*.safetensors"}} {
		req := request("tiny", commit)
		req.Include = include
		res := e.mustPull(req)
		checkModel(t, res.Path, chosen(t, tree, include...))
		checkModel(t, filepath.Join(e.dir, "hub", "models--acme--tiny-llama", "snapshots", commit), chosen(t, tree, include...))
		checkStore(t, e.dir)
	}
}

// Pods of any uid read the store, whatever the umask was.
func TestPullWithTightUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	e := newEnv(t, fetchertest.HubOptions{})
	tree := bigTree(1, 1000)
	commit := e.push(repoID, tree)
	if err := e.hub.SetRef(repoID, "refs/pr/1", commit); err != nil {
		t.Fatal(err)
	}
	e.mustPull(request("tiny", "refs/pr/1"))
	checkStore(t, e.dir)
	info, err := os.Stat(e.dir)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the store has mode %v, %v", info.Mode(), err)
	}
	if ref, err := os.ReadFile(filepath.Join(e.dir, "hub/models--acme--tiny-llama/refs/refs/pr/1")); err != nil || string(ref) != commit {
		t.Errorf("the ref holds %q, %v", ref, err)
	}
}

// Names of the system's own files are names of models as well.
func TestPullOddNames(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	e.push(repoID, bigTree(1, 1000))
	s := e.store()
	if err := s.WriteHeartbeat(store.Heartbeat{Node: "n"}); err != nil {
		t.Fatal(err)
	}
	names := []string{"agent", "current", "layout", "sha256", "a.json", "a", "model-a", "lock", strings.Repeat("x", 63)}
	for _, name := range names {
		e.mustPull(request(name, ""))
	}
	if got := checkStore(t, e.dir); len(got) != len(names) {
		t.Errorf("published %v", got)
	}
	for _, name := range names {
		if err := s.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if got := checkStore(t, e.dir); len(got) != 0 {
		t.Errorf("published %v", got)
	}
	if h, err := s.ReadHeartbeat(); err != nil || h.Node != "n" {
		t.Errorf("removing a model called agent took the heartbeat: %+v, %v", h, err)
	}
}

func TestPullRefusesBadRequests(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	before := snapshot(t, filepath.Dir(e.store().Dir()))
	for _, name := range []string{"", "..", "../x", "a/b", "A", strings.Repeat("x", 64), "a\x00b"} {
		if _, err := e.fetcher(nil).Pull(t.Context(), request(name, "")); err == nil {
			t.Errorf("pulled under the name %q", name)
		}
	}
	_, err := e.fetcher(nil).Pull(t.Context(), fetcher.Request{Name: "x", Source: fetcher.Source{Scheme: "s3", Path: "bucket"}})
	if !errors.Is(err, fetcher.ErrUnsupported) {
		t.Errorf("a source without a driver: %v", err)
	}
	if after := snapshot(t, filepath.Dir(e.dir)); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestPullIntoReadOnlyStore(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	e.push(repoID, bigTree(1, 1000))
	e.store()
	s, err := store.OpenReadOnly(e.dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.fetcher(func(o *fetcher.Options) { o.Store = s }).Pull(t.Context(), request("tiny", ""))
	if !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("pull ends with %v", err)
	}
}

func TestPullAdmission(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := bigTree(1, 500_000)
	e.push(repoID, tree)
	full := &fetcher.Error{Kind: fetcher.ErrNoSpace, Op: "reserve", Err: errors.New("the quota is used up")}
	var asked []int64
	f := e.fetcher(func(o *fetcher.Options) {
		o.Admit = func(_ context.Context, need int64) error {
			asked = append(asked, need)
			return full
		}
	})
	if _, err := f.Pull(t.Context(), request("tiny", "")); !errors.Is(err, fetcher.ErrNoSpace) || !strings.Contains(err.Error(), "the quota is used up") {
		t.Errorf("pull ends with %v", err)
	}
	if len(asked) != 1 || asked[0] != treeBytes(tree) {
		t.Errorf("asked for %d, want once for %d", asked, treeBytes(tree))
	}
	if r := e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve}); len(r) > 0 {
		t.Errorf("refused, and asked for files all the same: %+v", r)
	}
	if got := checkStore(t, e.dir); len(got) > 0 {
		t.Errorf("published %v", got)
	}
	e.mustPull(request("tiny", ""))
	if _, err := f.Pull(t.Context(), request("tiny", "")); err != nil || len(asked) != 1 {
		t.Errorf("what is here needs no room: %v, asked for %d", err, asked)
	}
}
