package fetcher_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
)

func textTree(files map[string]string) fetchertest.Tree {
	tree := fetchertest.Tree{}
	for path, text := range files {
		tree[path] = fetchertest.Bytes([]byte(text))
	}
	return tree
}

func only(tree fetchertest.Tree, paths ...string) fetchertest.Tree {
	part := fetchertest.Tree{}
	for _, p := range paths {
		part[p] = tree[p]
	}
	return part
}

// The directory that vLLM gets and the view for the Hub's clients have one set of
// weights, in the format that was chosen.
func TestPullOneOfTwoFormats(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	tree := textTree(map[string]string{
		"config.json": "{}", "params.json": "{}", "consolidated.safetensors": "all",
		"model-00001-of-00002.safetensors": "one", "model-00002-of-00002.safetensors": "two",
		"model.safetensors.index.json": `{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`,
	})
	commit := e.push(repoID, tree)
	mistral := only(tree, "config.json", "params.json", "consolidated.safetensors")
	hf := only(tree, "config.json", "params.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
	for _, c := range []struct {
		format string
		want   fetchertest.Tree
	}{{"", mistral}, {fetcher.FormatHF, hf}, {fetcher.FormatMistral, mistral}, {fetcher.FormatAuto, mistral}} {
		req := request("tiny", commit)
		req.FileFormat = c.format
		checkModel(t, e.mustPull(req).Path, c.want)
		checkModel(t, filepath.Join(e.dir, "hub", "models--acme--tiny-llama", "snapshots", commit), c.want)
		if got := checkStore(t, e.dir); len(got) != 1 {
			t.Errorf("published %v", got)
		}
	}
	req := request("other", commit)
	req.FileFormat = "gguf"
	if _, err := e.fetcher(nil).Pull(t.Context(), req); err == nil || !strings.Contains(err.Error(), "write auto, mistral or hf") {
		t.Errorf("an unknown format: %v", err)
	}
}

// The index is read before anything is chosen: what it does not name is not fetched,
// and where it names what is not there, nothing is.
func TestPullReadsTheIndexFirst(t *testing.T) {
	const index = `{"weight_map": {"a": "model.safetensors"}}`
	e := newEnv(t, fetchertest.HubOptions{})
	tree := textTree(map[string]string{
		"config.json": "{}", "model.safetensors": "named", "copy.safetensors": "not named", "model.safetensors.index.json": index,
	})
	e.push(repoID, tree)
	checkModel(t, e.mustPull(request("tiny", "")).Path, only(tree, "config.json", "model.safetensors", "model.safetensors.index.json"))

	// What exclude takes away was meant to go.
	req := request("part", "")
	req.Exclude = []string{"model.safetensors", "*.md"}
	checkModel(t, e.mustPull(req).Path, only(tree, "config.json", "model.safetensors.index.json"))

	delete(tree, "model.safetensors")
	e.push(repoID, tree)
	e.hub.ResetLog()
	_, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
	if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), `names "model.safetensors", which is not there`) {
		t.Errorf("pull ends with %v", err)
	}
	if r := e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve}); len(r) != 0 {
		t.Errorf("asked for %+v, though the index was in the store", r)
	}

	// A damaged answer is not believed; the pull itself says what is wrong.
	tree["model.safetensors.index.json"] = fetchertest.Bytes([]byte(index + "\n"))
	e.push(repoID, tree)
	e.hub.Inject(fetchertest.Fault{Match: fetchertest.Match{File: "model.safetensors.index.json"}, Effect: fetchertest.WrongByte(3)})
	if _, err := e.fetcher(nil).Pull(t.Context(), request("tiny", "")); !errors.Is(err, fetcher.ErrCorrupt) {
		t.Errorf("with a damaged index, pull ends with %v", err)
	}
}

// asOfEarlier rewrites the manifest of a model as an earlier stoker would have written
// it, and removes what that would have left out.
func asOfEarlier(t *testing.T, dir, name, commit string, without ...string) store.Manifest {
	t.Helper()
	path := filepath.Join(dir, "manifests", name, commit+".json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m store.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	m.Selection = 0
	files := m.Files
	m.Files, m.Bytes = nil, 0
	for _, f := range files {
		gone := false
		for _, w := range without {
			gone = gone || f.Path == w
		}
		if !gone {
			m.Files, m.Bytes = append(m.Files, f), m.Bytes+f.Size
			continue
		}
		for _, p := range []string{filepath.Join(dir, "models", name, commit, f.Path), filepath.Join(dir, "blobs", "sha256", f.SHA256)} {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if text, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

// After an upgrade, what older rules left out is fetched, and nothing else is. Where
// the source cannot be reached, what is published stays as it is.
func TestPullAfterTheRulesChanged(t *testing.T) {
	const dense = "2_Dense/pytorch_model.bin"
	e := newEnv(t, fetchertest.HubOptions{})
	tree := textTree(map[string]string{"config.json": "{}", "model.safetensors": "weights", "2_Dense/config.json": "{ }", dense: "a projection"})
	commit := e.push(repoID, tree)
	first := e.mustPull(request("tiny", commit))
	old := asOfEarlier(t, e.dir, "tiny", commit, dense)

	restore := e.hub.Inject(fetchertest.Fault{Effect: fetchertest.Status(http.StatusServiceUnavailable)})
	f := e.fetcher(func(o *fetcher.Options) { o.Attempts = 1 })
	if _, err := f.Pull(t.Context(), request("tiny", commit)); !errors.Is(err, fetcher.ErrTransient) {
		t.Errorf("without the source, pull ends with %v", err)
	}
	req := request("tiny", commit)
	req.AcceptOlder = true
	if res, err := f.Pull(t.Context(), req); err != nil || res.Bytes != old.Bytes || res.DownloadedBytes != 0 {
		t.Errorf("a pull that accepts what is there: %+v, %v", res, err)
	}
	if m, err := e.store().Lookup("tiny"); err != nil || m.Selection != 0 || len(m.Files) != len(tree)-1 || !m.PublishedAt.Equal(old.PublishedAt) {
		t.Errorf("published is %+v, %v", m, err)
	}

	restore()
	res := e.mustPull(req)
	if res.DownloadedBytes != tree[dense].Size() || res.Path != first.Path {
		t.Errorf("downloaded %d bytes into %s, want %d into %s", res.DownloadedBytes, res.Path, tree[dense].Size(), first.Path)
	}
	checkModel(t, res.Path, tree)
	if m, err := e.store().Lookup("tiny"); err != nil || m.Selection != fetcher.SelectionVersion {
		t.Errorf("published is %+v, %v", m, err)
	}
	e.hub.ResetLog()
	e.mustPull(request("tiny", commit))
	if r := e.hub.Requests(fetchertest.Match{}); len(r) != 0 {
		t.Errorf("once more: asked %+v", r)
	}
}
