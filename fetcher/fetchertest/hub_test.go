package fetchertest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

const repoID = "acme/tiny-llama"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startHub serves a generated model and returns its files and its commit.
func startHub(t *testing.T, o fetchertest.HubOptions) (*fetchertest.Hub, fetchertest.Tree, string) {
	t.Helper()
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	hub := fetchertest.StartHub(t, o)
	commit, err := hub.Push(t.Context(), repoID, "main", tree)
	if err != nil {
		t.Fatal(err)
	}
	return hub, tree, commit
}

func content(t *testing.T, c *fetchertest.Content) []byte {
	t.Helper()
	b, err := io.ReadAll(c.Reader())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// client is one that follows redirects as any does.
func client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func get(t *testing.T, url, ranged string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranged != "" {
		req.Header.Set("Range", ranged)
	}
	resp, err := client(t).Do(req)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp, body, err
}

const shard = "model-00001-of-00002.safetensors"

func TestHubServesRanges(t *testing.T) {
	hub, tree, commit := startHub(t, fetchertest.HubOptions{})
	for _, path := range []string{shard, "config.json"} {
		want := content(t, tree[path])
		resp, got, err := get(t, hub.URL()+"/"+repoID+"/resolve/main/"+path, "bytes=10-")
		if err != nil || resp.StatusCode != http.StatusPartialContent || !bytes.Equal(got, want[10:]) {
			t.Fatalf("%s: %v, %d bytes, %v", path, resp, len(got), err)
		}
		resp, _, err = get(t, hub.URL()+"/"+repoID+"/resolve/"+commit+"/"+path, "bytes=999999999-")
		if err != nil || resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%s: a range beyond the end: %v, %v", path, resp.Status, err)
		}
	}
	if n := hub.BytesSent(fetchertest.Match{Kind: fetchertest.KindCDN, File: "*.safetensors"}); n < tree[shard].Size()-10 {
		t.Errorf("logged %d bytes", n)
	}
}

func TestHubSignaturesExpire(t *testing.T) {
	hub, _, _ := startHub(t, fetchertest.HubOptions{SignatureLife: -time.Second})
	resp, _, err := get(t, hub.URL()+"/"+repoID+"/resolve/main/"+shard, "")
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("an expired signature: %v, %v", resp, err)
	}
	hub, _, _ = startHub(t, fetchertest.HubOptions{})
	resp, _, err = get(t, hub.URL()+"/"+repoID+"/resolve/main/"+shard, "")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("a good signature: %v, %v", resp, err)
	}
	forged := strings.Replace(resp.Request.URL.String(), "Expires=", "Expires=1", 1)
	resp, _, err = get(t, forged, "")
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a forged date: %v, %v", resp, err)
	}
}

func TestHubFaults(t *testing.T) {
	hub, tree, _ := startHub(t, fetchertest.HubOptions{})
	url := hub.URL() + "/" + repoID + "/resolve/main/" + shard
	want := content(t, tree[shard])
	cdn := fetchertest.Match{Kind: fetchertest.KindCDN}
	for _, c := range []struct {
		name   string
		effect fetchertest.Effect
		check  func(resp *http.Response, got []byte, err error) bool
	}{
		{"cut", fetchertest.CutAfter(1000), func(_ *http.Response, got []byte, err error) bool {
			return errors.Is(err, io.ErrUnexpectedEOF) && bytes.Equal(got, want[10:1010])
		}},
		{"cut at once", fetchertest.CutAfter(0), func(_ *http.Response, _ []byte, err error) bool { return errors.Is(err, io.EOF) }},
		{"wrong byte", fetchertest.WrongByte(500), func(_ *http.Response, got []byte, err error) bool {
			return err == nil && len(got) == len(want)-10 && got[490] == ^want[500] && bytes.Equal(got[:490], want[10:500]) && bytes.Equal(got[491:], want[501:])
		}},
		{"range ignored", fetchertest.IgnoreRange(), func(resp *http.Response, got []byte, _ error) bool {
			return resp.StatusCode == http.StatusOK && bytes.Equal(got, want)
		}},
		{"status", fetchertest.Status(http.StatusServiceUnavailable), func(resp *http.Response, _ []byte, _ error) bool {
			return resp.StatusCode == http.StatusServiceUnavailable
		}},
		{"rate limited", fetchertest.RateLimited("resolvers", 55*time.Second), func(resp *http.Response, _ []byte, _ error) bool {
			return resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("RateLimit") == `"resolvers";r=0;t=55`
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub.Inject(fetchertest.Fault{Match: cdn, Skip: 1, Times: 1, Effect: c.effect})
			for i := range 3 { // only the second is broken
				resp, got, err := get(t, url, "bytes=10-")
				fine := err == nil && bytes.Equal(got, want[10:])
				if fine != (i != 1) || i == 1 && !c.check(resp, got, err) {
					t.Fatalf("request %d: %v, %d bytes, %v", i, resp, len(got), err)
				}
			}
		})
	}
}

func TestHubStallsUntilTheClientLeaves(t *testing.T) {
	hub, _, _ := startHub(t, fetchertest.HubOptions{})
	remove := hub.Inject(fetchertest.Fault{Match: fetchertest.Match{File: shard}, Effect: fetchertest.StallAfter(64)})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hub.URL()+"/"+repoID+"/resolve/main/"+shard, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t)
	c.Timeout = 300 * time.Millisecond
	resp, err := c.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("a stalled answer ended well")
	}
	remove()
	if _, _, err := get(t, req.URL.String(), ""); err != nil {
		t.Errorf("after the fault was removed: %v", err)
	}
}

func TestHubRate(t *testing.T) {
	hub, tree, _ := startHub(t, fetchertest.HubOptions{})
	size := tree[shard].Size()
	hub.SetBytesPerSecond(size * 2)
	began := time.Now()
	if _, got, err := get(t, hub.URL()+"/"+repoID+"/resolve/main/"+shard, ""); err != nil || int64(len(got)) != size {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(began); took < 450*time.Millisecond {
		t.Errorf("half a second's bytes came in %s", took)
	}
}

func TestHubNewHead(t *testing.T) {
	hub, tree, old := startHub(t, fetchertest.HubOptions{})
	tree["config.json"] = fetchertest.Bytes([]byte("{}"))
	head, err := hub.Push(t.Context(), repoID, "main", tree)
	if err != nil || head == old {
		t.Fatalf("the head stays %s, %v", head, err)
	}
	_, got, err := get(t, hub.URL()+"/"+repoID+"/resolve/main/config.json", "")
	if err != nil || string(got) != "{}" {
		t.Errorf("the new head serves %q, %v", got, err)
	}
	_, got, err = get(t, hub.URL()+"/"+repoID+"/resolve/"+old+"/config.json", "")
	if err != nil || !bytes.Contains(got, []byte("LlamaForCausalLM")) {
		t.Errorf("the old commit serves %q, %v", got, err)
	}
}

// Commits, folders and files are named as git itself names them.
func TestHubCommitIsGits(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	small := fetchertest.Tree{
		"a.txt": fetchertest.Bytes([]byte("a\n")), "b/c.txt": fetchertest.Bytes([]byte("c\n")), "b/d/e.txt": fetchertest.Bytes(nil),
		"b.txt": fetchertest.Bytes([]byte("b\n")), "b-.txt": fetchertest.Bytes([]byte("-\n")),
	}
	for path, c := range small {
		writeFile(t, filepath.Join(dir, path), content(t, c))
	}
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), git, args...)
		cmd.Dir = dir
		cmd.Env = []string{
			"HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=stoker", "GIT_AUTHOR_EMAIL=stoker@localhost", "GIT_AUTHOR_DATE=1700000000 +0000",
			"GIT_COMMITTER_NAME=stoker", "GIT_COMMITTER_EMAIL=stoker@localhost", "GIT_COMMITTER_DATE=1700000000 +0000",
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("init", "-q")
	run("add", ".")
	run("commit", "-q", "-m", "Push")
	hub := fetchertest.NewHub(fetchertest.HubOptions{})
	commit, err := hub.Push(t.Context(), repoID, "main", small)
	if want := run("rev-parse", "HEAD"); err != nil || commit != want {
		t.Errorf("commit is %s, git's is %s (%v)", commit, want, err)
	}
}

func TestContentDigests(t *testing.T) {
	c := fetchertest.Bytes([]byte("hello\n"))
	blob, err := c.GitBlob()
	if err != nil || blob != "ce013625030ba8dba906f756967f9e9ca394464a" { // git hash-object
		t.Errorf("git blob %s, %v", blob, err)
	}
	sum := sha256.Sum256([]byte("hello\n"))
	if got, err := c.SHA256(); err != nil || got != hex.EncodeToString(sum[:]) {
		t.Errorf("sha256 %s, %v", got, err)
	}
}

func TestHubServeEndsWithItsContext(t *testing.T) {
	hub := fetchertest.NewHub(fetchertest.HubOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	if err := hub.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- hub.Serve(ctx) }()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
