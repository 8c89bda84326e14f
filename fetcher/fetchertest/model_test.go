package fetchertest_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

type tensorInfo struct {
	DType   string   `json:"dtype"`
	Shape   []int64  `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// header reads a safetensors file's header and checks that the tensors fill
// the data without gaps.
func header(t *testing.T, c *fetchertest.Content) map[string]tensorInfo {
	t.Helper()
	b := content(t, c)
	n := int64(binary.LittleEndian.Uint64(b))
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b[8:8+n], &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "__metadata__")
	tensors := map[string]tensorInfo{}
	var spans [][2]int64
	for name, text := range raw {
		var info tensorInfo
		if err := json.Unmarshal(text, &info); err != nil {
			t.Fatal(err)
		}
		size := int64(2)
		for _, d := range info.Shape {
			size *= d
		}
		if info.DType != "BF16" || info.Offsets[1]-info.Offsets[0] != size {
			t.Errorf("%s: %+v", name, info)
		}
		tensors[name] = info
		spans = append(spans, info.Offsets)
	}
	slices.SortFunc(spans, func(a, b [2]int64) int { return int(a[0] - b[0]) })
	var end int64
	for _, s := range spans {
		if s[0] != end {
			t.Errorf("a gap before %d", s[0])
		}
		end = s[1]
	}
	if 8+n+end != c.Size() {
		t.Errorf("header %d and data %d make no file of %d bytes", n, end, c.Size())
	}
	for i := int64(8) + n; i < int64(len(b)); i += 2 {
		v := math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[i:])) << 16)
		if a := math.Abs(float64(v)); a > 1 || a == 0 || math.IsNaN(a) {
			t.Fatalf("weight %v at %d", v, i)
		}
	}
	return tensors
}

func TestGenerateModel(t *testing.T) {
	for name, spec := range map[string]fetchertest.ModelSpec{
		"smallest":   {},
		"one shard":  {Shards: 1, Bare: true},
		"many":       {Layers: 1, Shards: 12},
		"other":      {Seed: 7, Layers: 3, Hidden: 96, Intermediate: 100, Heads: 6, KVHeads: 3, Vocab: 300, Shards: 5},
		"by size":    fetchertest.SpecOfSize(3, 20<<20, 4),
		"very small": fetchertest.SpecOfSize(3, 1, 1),
	} {
		t.Run(name, func(t *testing.T) {
			tree, err := fetchertest.GenerateModel(spec)
			if err != nil {
				t.Fatal(err)
			}
			var config struct {
				Hidden int64 `json:"hidden_size"`
				Heads  int64 `json:"num_attention_heads"`
				KV     int64 `json:"num_key_value_heads"`
				Head   int64 `json:"head_dim"`
				Layers int   `json:"num_hidden_layers"`
				Inter  int64 `json:"intermediate_size"`
				Vocab  int64 `json:"vocab_size"`
			}
			if err := json.Unmarshal(content(t, tree["config.json"]), &config); err != nil {
				t.Fatal(err)
			}
			all := map[string]tensorInfo{}
			home := map[string]string{}
			for path, c := range tree {
				if strings.HasSuffix(path, ".safetensors") {
					for name, info := range header(t, c) {
						all[name], home[name] = info, path
					}
				}
			}
			if len(all) != 9*config.Layers+3 {
				t.Errorf("%d tensors in %d layers", len(all), config.Layers)
			}
			for name, shape := range map[string][]int64{
				"model.embed_tokens.weight":              {config.Vocab, config.Hidden},
				"lm_head.weight":                         {config.Vocab, config.Hidden},
				"model.layers.0.self_attn.q_proj.weight": {config.Heads * config.Head, config.Hidden},
				"model.layers.0.self_attn.k_proj.weight": {config.KV * config.Head, config.Hidden},
				"model.layers.0.mlp.down_proj.weight":    {config.Hidden, config.Inter},
			} {
				if !slices.Equal(all[name].Shape, shape) {
					t.Errorf("%s has shape %v, config.json says %v", name, all[name].Shape, shape)
				}
			}
			checkIndex(t, tree, home)
		})
	}
}

func checkIndex(t *testing.T, tree fetchertest.Tree, home map[string]string) {
	t.Helper()
	index, ok := tree["model.safetensors.index.json"]
	if !ok {
		if tree["model.safetensors"] == nil {
			t.Error("neither an index nor a single file")
		}
		return
	}
	var read struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(content(t, index), &read); err != nil {
		t.Fatal(err)
	}
	if len(read.WeightMap) != len(home) {
		t.Errorf("the index has %d tensors, the files %d", len(read.WeightMap), len(home))
	}
	for name, path := range read.WeightMap {
		if home[name] != path {
			t.Errorf("the index has %s in %s, it is in %s", name, path, home[name])
		}
	}
}

func TestSpecOfSize(t *testing.T) {
	for _, want := range []int64{10 << 20, 100 << 20, 500 << 20, 3 << 30} {
		tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(1, want, 4))
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		for path, c := range tree {
			if strings.HasSuffix(path, ".safetensors") {
				got += c.Size()
			}
		}
		if got < want*9/10 || got > want*11/10 {
			t.Errorf("asked for %d MB of weights, got %d MB", want>>20, got>>20)
		}
	}
}

func TestGenerateModelRefusesNonsense(t *testing.T) {
	for _, spec := range []fetchertest.ModelSpec{{Hidden: 65}, {Heads: 3, KVHeads: 2, Hidden: 96}, {Vocab: 10}, {Shards: 99}, {Layers: -1}} {
		if _, err := fetchertest.GenerateModel(spec); err == nil {
			t.Errorf("%+v is accepted", spec)
		}
	}
}

func TestGenerateModelIsDeterministic(t *testing.T) {
	sums := map[string]int{}
	for _, seed := range []uint64{1, 1, 2} {
		tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		sum, err := tree[shard].SHA256()
		if err != nil {
			t.Fatal(err)
		}
		sums[sum]++
	}
	if len(sums) != 2 {
		t.Errorf("three models of two seeds have %d sums", len(sums))
	}
}

// Content reads alike from any offset, in pieces of any size.
func TestGeneratedContentAtAnyOffset(t *testing.T) {
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := content(t, tree[shard])
	for offset := range int64(5000) {
		n := offset%23 + 1
		got := make([]byte, n)
		if _, err := tree[shard].ReadAt(got, offset); err != nil || !bytes.Equal(got, want[offset:offset+n]) {
			t.Fatalf("at %d: %x, want %x (%v)", offset, got, want[offset:offset+n], err)
		}
	}
	if n, err := tree[shard].ReadAt(make([]byte, 10), tree[shard].Size()-3); n != 3 || err != io.EOF { //nolint:errorlint // io.ReaderAt's contract
		t.Errorf("over the end: %d bytes, %v", n, err)
	}
}

// The files that a pull would take by default are the ones that vLLM loads.
func TestGeneratedModelShowsSelection(t *testing.T) {
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{})
	if err != nil {
		t.Fatal(err)
	}
	var files []fetcher.File
	for path := range tree {
		files = append(files, fetcher.File{Path: path})
	}
	chosen, err := fetcher.Select(files, fetcher.Choice{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range chosen {
		if strings.HasPrefix(f.Path, "original/") || strings.HasSuffix(f.Path, ".bin") {
			t.Errorf("%s is chosen", f.Path)
		}
	}
	if len(chosen) == len(files) || len(chosen) < 8 {
		t.Errorf("%d of %d files are chosen", len(chosen), len(files))
	}
}
