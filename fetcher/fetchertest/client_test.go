package fetchertest_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// Variables that name interpreters: with requirements.txt and with
// requirements-jax.txt installed.
const (
	withClient = "STOKER_TEST_PYTHON"
	withModels = "STOKER_TEST_PYTHON_JAX"
)

// python is an interpreter and its environment: nothing of this process's, and
// no traffic but to the Hub stand-in.
type python struct {
	interpreter string
	env         []string
}

func newPython(t *testing.T, endpoint string, extra ...string) python {
	t.Helper()
	return newPythonOf(t, withClient, endpoint, extra...)
}

func newPythonOf(t *testing.T, variable, endpoint string, extra ...string) python {
	t.Helper()
	interpreter := os.Getenv(variable)
	if interpreter == "" {
		t.Skip(variable + " is not set: what reads models in Python is not run; `make test` makes a virtual environment for it")
	}
	home := t.TempDir()
	return python{interpreter, append([]string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "HF_HOME=" + filepath.Join(home, "hf"),
		"HF_ENDPOINT=" + endpoint, "HF_HUB_DISABLE_TELEMETRY=1", "HF_HUB_DISABLE_UPDATE_CHECK=1",
		"HF_HUB_DISABLE_PROGRESS_BARS=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONIOENCODING=utf-8",
	}, extra...)}
}

// run runs a command and returns what it wrote to stdout.
func (p python) run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = p.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

// script runs a script of testdata and decodes the JSON that it prints.
func (p python) script(t *testing.T, into any, name string, args ...string) {
	t.Helper()
	out := p.run(t, p.interpreter, append([]string{filepath.Join("testdata", name)}, args...)...)
	decode(t, out, into)
}

func decode(t *testing.T, out []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("it printed %q: %v", out, err)
	}
}

type downloaded struct{ Path, Error, Text string }

// snapshot calls snapshot_download.
func (p python) snapshot(t *testing.T, arguments map[string]any) downloaded {
	t.Helper()
	text, err := json.Marshal(arguments)
	if err != nil {
		t.Fatal(err)
	}
	var d downloaded
	p.script(t, &d, "download.py", string(text))
	return d
}

// checkTree compares a directory with a tree, byte by byte.
func checkTree(t *testing.T, dir string, want fetchertest.Tree) {
	t.Helper()
	if dir == "" {
		t.Fatal("nothing was downloaded")
	}
	count := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if entry != nil && entry.Name() == ".cache" {
				return fs.SkipDir // the client's own notes
			}
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c := want[filepath.ToSlash(name)]
		if c == nil {
			t.Errorf("%s is in no commit", name)
		} else if !bytes.Equal(got, content(t, c)) {
			t.Errorf("%s differs", name)
		}
		count++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count != len(want) {
		t.Errorf("%d files, want %d", count, len(want))
	}
}

func TestRealClientDownloads(t *testing.T) {
	for _, c := range []struct {
		name      string
		options   fetchertest.HubOptions
		revisions []any
	}{
		{"as it is", fetchertest.HubOptions{}, []any{nil, "refs/pr/1", "head"}},
		{"small pages", fetchertest.HubOptions{PageSize: 2}, []any{"main"}},
		{"relative redirects", fetchertest.HubOptions{RelativeRedirects: true}, []any{nil}},
		{"artifactory", fetchertest.HubOptions{Mirror: fetchertest.Mirror{Direct: true, ETags: fetchertest.SHA1ETags}}, []any{nil}},
		{"compressing", fetchertest.HubOptions{Mirror: fetchertest.Mirror{GzipBelow: 1 << 20}}, []any{nil}},
		{"ETags of Xet", fetchertest.HubOptions{Mirror: fetchertest.Mirror{ETags: fetchertest.XetETags}}, []any{nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub, tree, commit := startHub(t, c.options)
			tree["größe/odd name + & # 100%.json"] = fetchertest.Bytes([]byte("{}"))
			tree["empty.txt"] = fetchertest.Bytes(nil)
			head, err := hub.Push(t.Context(), repoID, "main", tree)
			if err != nil {
				t.Fatal(err)
			}
			if err := hub.SetRef(repoID, "refs/pr/1", head); err != nil {
				t.Fatal(err)
			}
			p := newPython(t, hub.URL())
			for _, revision := range c.revisions {
				if revision == "head" {
					revision = head
				}
				d := p.snapshot(t, map[string]any{"repo_id": repoID, "revision": revision, "cache_dir": t.TempDir()})
				if d.Error != "" || filepath.Base(d.Path) != head || head == commit {
					t.Fatalf("revision %v: %+v", revision, d)
				}
				checkTree(t, d.Path, tree)
			}
			if leaks := hub.Leaks(); len(leaks) > 0 {
				t.Errorf("the client sent a token to the CDN: %+v", leaks)
			}
		})
	}
}

func TestRealCommandLineDownloads(t *testing.T) {
	hub, tree, _ := startHub(t, fetchertest.HubOptions{})
	p := newPython(t, hub.URL())
	dir := t.TempDir()
	p.run(t, filepath.Join(filepath.Dir(p.interpreter), "hf"), "download", repoID, "--local-dir", dir, "--quiet")
	checkTree(t, dir, tree)
	p.run(t, filepath.Join(filepath.Dir(p.interpreter), "hf"), "cache", "verify", repoID, "--local-dir", dir)
}

func TestRealClientUsesItsToken(t *testing.T) {
	const token = "hf_tokenTOKENtoken"
	hub, tree, _ := startHub(t, fetchertest.HubOptions{Tokens: []string{"hf_other"}})
	for _, options := range []fetchertest.RepoOptions{{Private: true, Tokens: []string{token}}, {Gated: true, Tokens: []string{token}}} {
		hub.AddRepo(repoID, options)
		checkTree(t, newPython(t, hub.URL(), "HF_TOKEN="+token).snapshot(t, map[string]any{"repo_id": repoID}).Path, tree)
		if d := newPython(t, hub.URL(), "HF_TOKEN=hf_other").snapshot(t, map[string]any{"repo_id": repoID}); d.Error == "" {
			t.Errorf("%+v: another's token downloads", options)
		}
	}
	if leaks := hub.Leaks(); len(leaks) > 0 {
		t.Errorf("the client sent a token to the CDN: %+v", leaks)
	}
}

// The client understands the stand-in's failures as the real Hub's.
func TestRealClientUnderstandsFailures(t *testing.T) {
	hub, _, _ := startHub(t, fetchertest.HubOptions{Tokens: []string{"hf_other"}})
	hub.AddRepo("acme/gated", fetchertest.RepoOptions{Gated: true})
	if _, err := hub.Push(t.Context(), "acme/gated", "main", fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}"))}); err != nil {
		t.Fatal(err)
	}
	p := newPython(t, hub.URL(), "HF_TOKEN=hf_other")
	for _, c := range []struct{ repo, revision, want string }{
		{"acme/no-such-model", "main", "RepositoryNotFoundError"},
		{repoID, "no-such-branch", "RevisionNotFoundError"},
		{"acme/gated", "main", "GatedRepoError"},
	} {
		if d := p.snapshot(t, map[string]any{"repo_id": c.repo, "revision": c.revision}); d.Error != c.want {
			t.Errorf("%s@%s: %+v, want %s", c.repo, c.revision, d, c.want)
		}
	}
}

// The client waits when it is told to, and resumes what is cut, as it does
// with the real Hub. It resumes by pieces of 10 MiB.
func TestRealClientSurvivesFaults(t *testing.T) {
	hub, _, _ := startHub(t, fetchertest.HubOptions{})
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(1, 20<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Push(t.Context(), repoID, "main", tree); err != nil {
		t.Fatal(err)
	}
	weights := fetchertest.Match{Kind: fetchertest.KindCDN, Method: http.MethodGet, File: "model.safetensors"}
	config := fetchertest.Match{Kind: fetchertest.KindResolve, Method: http.MethodGet, File: "config.json"}
	hub.Inject(fetchertest.Fault{Match: weights, Times: 1, Effect: fetchertest.CutAfter(15 << 20)})
	hub.Inject(fetchertest.Fault{Match: config, Times: 1, Effect: fetchertest.RateLimited("resolvers", 0)})
	checkTree(t, newPython(t, hub.URL()).snapshot(t, map[string]any{"repo_id": repoID}).Path, tree)
	if r := hub.Requests(weights); len(r) != 2 || r[1].Status != http.StatusPartialContent || r[1].Range != "bytes=10485760-" {
		t.Errorf("the cut file was not resumed: %+v", r)
	}
	if r := hub.Requests(config); len(r) != 2 || r[0].Status != http.StatusTooManyRequests || r[1].Status != http.StatusOK {
		t.Errorf("the throttled file was not asked for again: %+v", r)
	}
}

func TestRealReaderOpensShards(t *testing.T) {
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 5, Shards: 3})
	if err != nil {
		t.Fatal(err)
	}
	p := newPython(t, "http://127.0.0.1:9")
	dir := t.TempDir()
	want := map[string][]int64{}
	var size int64
	for path, c := range tree {
		if !strings.HasSuffix(path, ".safetensors") {
			continue
		}
		writeFile(t, filepath.Join(dir, path), content(t, c))
		for name, info := range header(t, c) {
			want[name] = info.Shape
			size += info.Offsets[1] - info.Offsets[0]
		}
	}
	var got struct {
		Shapes map[string][]int64
		Bytes  int64
	}
	p.script(t, &got, "open_shards.py", dir)
	if len(got.Shapes) != len(want) || got.Bytes != size {
		t.Errorf("%d tensors of %d bytes, want %d of %d", len(got.Shapes), got.Bytes, len(want), size)
	}
	for name, shape := range want {
		if g := got.Shapes[name]; len(g) != len(shape) || g[0] != shape[0] || g[len(g)-1] != shape[len(shape)-1] {
			t.Errorf("%s: %v, want %v", name, g, shape)
		}
	}
}

// The client of today takes a private authority from SSL_CERT_FILE, and no more from
// the variables of the one that it had before 1.0.
func TestRealClientOfPrivateAuthority(t *testing.T) {
	hub, tree, _ := startHub(t, fetchertest.HubOptions{Mirror: fetchertest.Mirror{Direct: true}})
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	certificate := authority.Server(t, time.Now().Add(time.Hour), "127.0.0.1")
	endpoint := "https://" + fetchertest.StartTLS(t, certificate, strings.TrimPrefix(hub.URL(), "http://"))
	bundle := authority.Bundle(t)
	checkTree(t, newPython(t, endpoint, "SSL_CERT_FILE="+bundle).snapshot(t, map[string]any{"repo_id": repoID}).Path, tree)
	if d := newPython(t, endpoint, "REQUESTS_CA_BUNDLE="+bundle).snapshot(t, map[string]any{"repo_id": repoID}); d.Error == "" {
		t.Error("REQUESTS_CA_BUNDLE is read: let hf.FromEnvironment say so")
	}
}
