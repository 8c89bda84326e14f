package fetcher_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/file"
)

// pullTogether pulls several requests at once, each by an engine and a store of
// its own, as processes would, and adds up what they downloaded.
func (e *env) pullTogether(change func(*fetcher.Options), requests ...fetcher.Request) int64 {
	e.t.Helper()
	var downloaded atomic.Int64
	var wg sync.WaitGroup
	for _, req := range requests {
		f := e.fetcher(change)
		wg.Go(func() {
			res, err := f.Pull(e.t.Context(), req)
			if err != nil {
				e.t.Error(err)
			}
			downloaded.Add(res.DownloadedBytes)
		})
	}
	wg.Wait()
	return downloaded.Load()
}

func TestPullOneModelTwiceAtOnce(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: 8 << 20})
	tree := bigTree(1, 2<<20)
	commit := e.push(repoID, tree)
	var waited atomic.Bool
	req := request("tiny", "")
	req.Progress = func(p fetcher.Progress) {
		if p.Phase == fetcher.PhaseWaiting {
			waited.Store(true)
		}
	}
	if got := e.pullTogether(nil, req, req, req); got != treeBytes(tree) {
		t.Errorf("downloaded %d bytes, want %d", got, treeBytes(tree))
	}
	if sent := e.hub.BytesSent(fetchertest.Match{Kind: fetchertest.KindCDN}); sent != 3<<20 {
		t.Errorf("the CDN sent %d bytes", sent)
	}
	if !waited.Load() {
		t.Error("nobody said that it waits")
	}
	if got := checkStore(t, e.dir); len(got) != 1 || !got["tiny@"+commit] {
		t.Errorf("published %v", got)
	}
}

// Who waits for another pull of the model shows how far that one is.
func TestPullShowsWhatItWaitsFor(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: 1 << 20})
	tree := bigTree(1, 6<<20)
	commit := e.push(repoID, tree)
	var seen atomic.Bool
	req := request("tiny", "")
	req.Progress = func(p fetcher.Progress) {
		if p.Phase == fetcher.PhaseWaiting && p.BytesTotal == treeBytes(tree) && p.BytesDone > 0 && p.FilesTotal == len(tree) && p.Revision == commit {
			if !seen.Swap(true) {
				e.hub.SetBytesPerSecond(0) // that is all we want to see
			}
		}
	}
	e.pullTogether(nil, req, req)
	if !seen.Load() {
		t.Error("the one that waits did not say how far the other is")
	}
	if left := mustGlob(t, filepath.Join(e.dir, "agent/progress/*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Two models, two repositories, the same weights.
func TestPullSharedContent(t *testing.T) {
	for name, atOnce := range map[string]bool{"one after the other": false, "at once": true} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: 8 << 20})
			tree := bigTree(1, 2<<20)
			e.push(repoID, tree)
			e.push("other/copy", tree)
			a, b := request("a", ""), fetcher.Request{Name: "b", Source: hubSource("other/copy", "")}
			var got int64
			if atOnce {
				got = e.pullTogether(nil, a, b)
			} else {
				got = e.pullTogether(nil, a) + e.pullTogether(nil, b)
			}
			sent := e.hub.BytesSent(fetchertest.Match{Kind: fetchertest.KindCDN})
			if sent != 3<<20 {
				t.Errorf("the CDN sent %d bytes", sent)
			}
			// Small files may come twice when they are asked for at the same moment.
			if small := treeBytes(tree) - 3<<20; got < treeBytes(tree) || got > treeBytes(tree)+small {
				t.Errorf("downloaded %d bytes of %d", got, treeBytes(tree))
			}
			if got := checkStore(t, e.dir); len(got) != 2 {
				t.Errorf("published %v", got)
			}
			if blobs := mustGlob(t, filepath.Join(e.dir, "blobs/sha256/*")); len(blobs) != len(tree) {
				t.Errorf("%d blobs for %d contents", len(blobs), len(tree))
			}
		})
	}
}

// memory is a source that vouches for nothing, and counts what it gives.
type memory struct {
	files     map[string][]byte
	sent      atomic.Int64
	opens     atomic.Int64
	breakOnce atomic.Int64 // one body ends with an error after so many bytes, if not 0
	slow      time.Duration
	piece     int // what one Read gives at most; 0: 64 KiB
}

func (m *memory) List(context.Context, fetcher.Source) (fetcher.Listing, error) {
	l := fetcher.Listing{Revision: "r1"}
	for path, content := range m.files {
		l.Files = append(l.Files, fetcher.File{Path: path, Size: int64(len(content))})
	}
	return l, nil
}

func (m *memory) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	m.opens.Add(1)
	return &memoryBody{ctx: ctx, m: m, left: m.files[obj.File.Path][offset : offset+length], breakAfter: m.breakOnce.Swap(0)}, nil
}

type memoryBody struct {
	ctx        context.Context //nolint:containedctx // the reader lives as long as the ctx of Open, by contract
	m          *memory
	left       []byte
	breakAfter int64
}

func (b *memoryBody) Read(p []byte) (int, error) {
	if b.m.slow > 0 {
		timer := time.NewTimer(b.m.slow)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-b.ctx.Done():
		}
	}
	if b.ctx.Err() != nil {
		return 0, b.ctx.Err()
	}
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), cmp.Or(b.m.piece, 64<<10))], b.left)
	if b.breakAfter > 0 {
		if n = min(n, int(b.breakAfter)); int64(n) == b.breakAfter {
			return n, &fetcher.Error{Kind: fetcher.ErrRefused, Op: "read", Err: io.ErrClosedPipe}
		}
		b.breakAfter -= int64(n)
	}
	b.left = b.left[n:]
	b.m.sent.Add(int64(n))
	return n, nil
}

func (b *memoryBody) Close() error { return nil }

func (m *memory) drivers(o *fetcher.Options) {
	o.Drivers = fetcher.Drivers{fetcher.SchemeS3: func(fetcher.Access) (fetcher.Driver, error) { return m, nil }}
}

func memoryRequest(name string) fetcher.Request {
	return fetcher.Request{Name: name, Source: fetcher.Source{Scheme: fetcher.SchemeS3, Path: "bucket/model"}}
}

// What nobody vouches for is still transferred once, by one pull after another
// and by several at once.
func TestPullUnvouchedOnce(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	m := &memory{files: map[string][]byte{"model.safetensors": random(1, 3<<20), "config.json": []byte("{}"), "empty": {}}, slow: time.Millisecond}
	const total = 3<<20 + 2
	if got := e.pullTogether(m.drivers, memoryRequest("a"), memoryRequest("b"), memoryRequest("c")); got > total+4 || m.sent.Load() > total+4 {
		t.Errorf("downloaded %d bytes, the source gave %d, want %d once", got, m.sent.Load(), total)
	}
	before := m.sent.Load()
	if got := e.pullTogether(m.drivers, memoryRequest("d"), memoryRequest("a")); got != 0 || m.sent.Load() != before {
		t.Errorf("downloaded %d bytes again", got)
	}
	if got := checkStore(t, e.dir); len(got) != 4 {
		t.Errorf("published %v", got)
	}
	mf, err := e.store().Lookup("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range mf.Files {
		if f.VouchedBy != "" {
			t.Errorf("%s is vouched for by %q", f.Path, f.VouchedBy)
		}
	}
}

// An unvouched transfer is named by its bytes, whatever its journal says.
func TestPullUnvouchedWithDamagedJournal(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	content := random(1, 3<<20)
	m := &memory{files: map[string][]byte{"model.safetensors": content}}
	m.breakOnce.Store(5 << 19)
	if _, err := e.fetcher(m.drivers).Pull(t.Context(), memoryRequest("a")); err == nil {
		t.Fatal("the first pull should break off")
	}
	journals := mustGlob(t, filepath.Join(e.dir, "partial/*.json"))
	if len(journals) != 1 {
		t.Fatalf("journals %q", journals)
	}
	text, err := os.ReadFile(journals[0])
	if err != nil {
		t.Fatal(err)
	}
	// The state of a hash over nothing, said to be over a megabyte.
	hash, ok := sha256.New().(encoding.BinaryMarshaler)
	if !ok {
		t.Fatal("sha256 has no state to save")
	}
	state, err := hash.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	damaged := strings.NewReplacer(`"synced":null,"hashed":0,"hashes":null`, `"synced":[[0,1048576]],"hashed":1048576,"hashes":["`+base64.StdEncoding.EncodeToString(state)+`"]`).Replace(string(text))
	if damaged == string(text) {
		t.Fatalf("the journal is %s", text)
	}
	if err := os.WriteFile(journals[0], []byte(damaged), 0o644); err != nil {
		t.Fatal(err)
	}
	res, err := e.fetcher(m.drivers).Pull(t.Context(), memoryRequest("a"))
	if err != nil {
		t.Fatal(err)
	}
	if res.DownloadedBytes != int64(len(content)) {
		t.Errorf("downloaded %d bytes, the file has %d", res.DownloadedBytes, len(content))
	}
	sum := sha256.Sum256(content)
	if mf, err := e.store().Lookup("a"); err != nil || mf.Files[0].SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("published as %+v, %v", mf.Files, err)
	}
	checkStore(t, e.dir)
}

// Waiting for our own limit is no stall of the source.
func TestMaxRateIsNoStall(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	m := &memory{files: map[string][]byte{"model.safetensors": random(1, 3<<20)}, piece: 1 << 20}
	start := time.Now()
	f := e.fetcher(func(o *fetcher.Options) {
		m.drivers(o)
		o.MaxRate, o.StallTimeout = 4<<20, 100*time.Millisecond
	})
	if _, err := f.Pull(t.Context(), memoryRequest("a")); err != nil {
		t.Fatal(err)
	}
	if n := m.opens.Load(); n != 1 {
		t.Errorf("opened %d times", n)
	}
	// A burst of 1 MiB, then 2 MiB at 4 MiB/s.
	if took := time.Since(start); took < 450*time.Millisecond {
		t.Errorf("3 MiB came in %s", took)
	}
}

func TestPullDirectory(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	dir := t.TempDir()
	tree := fetchertest.Tree{}
	for i, path := range []string{"config.json", "model.safetensors", "sub/deep/x.json"} {
		content := random(uint64(i), 1000*i+1)
		tree[path] = fetchertest.Bytes(content)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	drivers := func(o *fetcher.Options) {
		o.Drivers = fetcher.Drivers{fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return file.New(), nil }}
	}
	req := fetcher.Request{Name: "local", Source: fetcher.Source{Scheme: fetcher.SchemeFile, Path: dir}}
	first, err := e.fetcher(drivers).Pull(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	checkModel(t, first.Path, tree)
	checkStore(t, e.dir)
	if again, err := e.fetcher(drivers).Pull(t.Context(), req); err != nil || again.DownloadedBytes != 0 || again.Revision != first.Revision {
		t.Errorf("again: %+v, %v", again, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := e.fetcher(drivers).Pull(t.Context(), req)
	if err != nil || second.Revision == first.Revision {
		t.Fatalf("after a change: %+v, %v", second, err)
	}
	tree["config.json"] = fetchertest.Bytes([]byte("changed"))
	checkModel(t, second.Path, tree)
	if got := checkStore(t, e.dir); len(got) != 2 {
		t.Errorf("published %v", fmt.Sprint(got))
	}
}
