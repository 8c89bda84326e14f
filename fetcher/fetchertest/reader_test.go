package fetchertest_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// offline is a model in a store that is mounted read-only for Python, with no
// network but a Hub that must not be asked.
type offline struct {
	python
	hub    *fetchertest.Hub
	tree   fetchertest.Tree
	prefix []string
	// Ways to name the model: for those who know the Hub's names, the link to the
	// newest revision, and what `stoker pull` prints.
	repo, current, revision string
}

func newOffline(t *testing.T, interpreter string, spec fetchertest.ModelSpec) *offline {
	t.Helper()
	o := &offline{python: newPythonOf(t, interpreter, "http://127.0.0.1:9", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1"), repo: repoID}
	var err error
	if o.tree, err = fetchertest.GenerateModel(spec); err != nil {
		t.Fatal(err)
	}
	o.hub = fetchertest.StartHub(t, fetchertest.HubOptions{})
	if _, err := o.hub.Push(t.Context(), repoID, "main", o.tree); err != nil {
		t.Fatal(err)
	}
	dir, mount := t.TempDir(), t.TempDir()
	result := pull(t, o.hub, dir, fetcher.Request{Name: "tiny", Source: fetcher.Source{Scheme: fetcher.SchemeHub, Path: repoID}})
	o.hub.ResetLog()
	o.prefix = readOnlyMount(t, dir, mount)
	o.env = append(o.env, "HF_HUB_CACHE="+filepath.Join(mount, "hub"))
	o.current = filepath.Join(mount, "models", "tiny", "current")
	o.revision = strings.Replace(result.Path, dir, mount, 1)
	return o
}

// script runs a script of testdata where the store is mounted.
func (o *offline) script(t *testing.T, into any, name string, args ...string) {
	t.Helper()
	command := slices.Concat(o.prefix, []string{o.interpreter, filepath.Join("testdata", name)}, args)
	decode(t, o.run(t, command[0], command[1:]...), into)
	if r := o.hub.Requests(fetchertest.Match{}); len(r) > 0 {
		t.Errorf("an offline reader asked the Hub: %+v", r)
	}
}

// tensorSums digests the bytes of each tensor as they were generated.
func tensorSums(t *testing.T, tree fetchertest.Tree) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for path, c := range tree {
		if !strings.HasSuffix(path, ".safetensors") {
			continue
		}
		b := content(t, c)
		data := b[8+binary.LittleEndian.Uint64(b):]
		for name, info := range header(t, c) {
			sum := sha256.Sum256(data[info.Offsets[0]:info.Offsets[1]])
			sums[name] = hex.EncodeToString(sum[:])
		}
	}
	return sums
}

// transformers loads a model out of the store, by whatever name, and generates
// with it what it generates with the files as they were made.
func TestTransformersGeneratesFromTheStore(t *testing.T) {
	// In one file: transformers' models in JAX read no shards.
	o := newOffline(t, withModels, fetchertest.ModelSpec{Seed: 8, Shards: 1})
	made := t.TempDir()
	for path, c := range o.tree {
		writeFile(t, filepath.Join(made, filepath.FromSlash(path)), content(t, c))
	}
	var tokens map[string][]int
	o.script(t, &tokens, "generate.py", o.repo, o.current, o.revision, made)
	if prompt := len("keep nodes warm"); len(tokens[made]) != prompt+8 {
		t.Fatalf("from the files as they were made come the tokens %v", tokens[made])
	}
	for _, model := range []string{o.repo, o.current, o.revision} {
		if !slices.Equal(tokens[model], tokens[made]) {
			t.Errorf("%s gives %v, the files as they were made %v", model, tokens[model], tokens[made])
		}
	}
}

// safetensors' reader hands out each tensor of a sharded model, as it was
// generated.
func TestSafetensorsReadsTheStore(t *testing.T) {
	o := newOffline(t, withModels, fetchertest.ModelSpec{Seed: 9, Shards: 3})
	for _, model := range []string{o.repo, o.revision} {
		var got map[string]string
		o.script(t, &got, "tensors.py", model)
		if diff := cmp.Diff(tensorSums(t, o.tree), got); diff != "" {
			t.Errorf("%s (-generated +read):\n%s", model, diff)
		}
	}
}

// Today's transformers finds configuration, tokenizer, chat template and every
// shard, as it does before it loads a model.
func TestTransformersLooksUpTheStore(t *testing.T) {
	o := newOffline(t, withClient, fetchertest.ModelSpec{Seed: 10, Shards: 3, Layers: 4})
	sizes := make([]int64, 3)
	for i, name := range shards() {
		sizes[i] = o.tree[name].Size()
	}
	snapshots := filepath.Join(strings.TrimPrefix(o.env[len(o.env)-1], "HF_HUB_CACHE="), "models--acme--tiny-llama", "snapshots", filepath.Base(o.revision))
	for model, dir := range map[string]string{o.repo: snapshots, o.current: o.current, o.revision: o.revision} {
		type found struct {
			Config, Text, Chat, Missing string
			Layers, Tensors             int
			Tokens                      []int
			Shards                      []string
			Sizes                       []int64
		}
		want := found{
			Config: "LlamaConfig", Layers: 4, Text: "keep nodes warm", Chat: "user: warm?\n", Missing: "OSError",
			Tensors: len(tensorSums(t, o.tree)), Sizes: sizes,
		}
		for _, b := range []byte(want.Text) {
			want.Tokens = append(want.Tokens, int(b)+3) // behind three special ones
		}
		for _, name := range shards() {
			want.Shards = append(want.Shards, filepath.Join(dir, name))
		}
		var got found
		o.script(t, &got, "look_up.py", model)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", model, diff)
		}
	}
}

func shards() []string {
	return []string{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"}
}
