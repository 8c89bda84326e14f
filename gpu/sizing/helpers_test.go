package sizing

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// tensor is an entry of a header to be generated.
type tensor struct {
	name  string
	dtype string
	shape []uint64
}

// header lays tensors out one after the other and returns the beginning of the
// safetensors file with them, and the size of the whole file.
func header(tb testing.TB, tensors ...tensor) ([]byte, int64) {
	tb.Helper()
	entries := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var at uint64
	for _, x := range tensors {
		end := at + mul(append([]uint64{dtypeBits(x.dtype)}, x.shape...)...)/8
		entries[x.name] = map[string]any{"dtype": x.dtype, "shape": x.shape, "data_offsets": []uint64{at, end}}
		at = end
	}
	text, err := json.Marshal(entries)
	if err != nil {
		tb.Fatal(err)
	}
	return raw(string(text)), int64(8+len(text)) + int64(at)
}

// raw puts the length in front of a header's text.
func raw(text string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
}

// model is a directory in memory. Files in sizes claim to be larger than their
// content, so that a model of any size is a few KB here, and reading beyond the
// header would fail.
type model struct {
	fstest.MapFS
	sizes map[string]int64
}

func newModel(config string) model {
	return model{MapFS: fstest.MapFS{"config.json": {Data: []byte(config)}}, sizes: map[string]int64{}}
}

func (m model) with(tb testing.TB, name string, tensors ...tensor) model {
	tb.Helper()
	data, size := header(tb, tensors...)
	m.MapFS[name], m.sizes[name] = &fstest.MapFile{Data: data}, size
	return m
}

func (m model) file(name, content string) model {
	m.MapFS[name] = &fstest.MapFile{Data: []byte(content)}
	return m
}

func (m model) Open(name string) (fs.File, error) {
	f, err := m.MapFS.Open(name)
	if err != nil || m.sizes[name] == 0 {
		return f, err
	}
	return sizedFile{f, m.sizes[name]}, nil
}

type sizedFile struct {
	fs.File
	size int64
}

func (f sizedFile) Stat() (fs.FileInfo, error) {
	info, err := f.File.Stat()
	return sizedInfo{info, f.size}, err
}

type sizedInfo struct {
	fs.FileInfo
	size int64
}

func (i sizedInfo) Size() int64 { return i.size }

func read(tb testing.TB, fsys fs.FS) Model {
	tb.Helper()
	m, err := ReadModel(fsys)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func need(tb testing.TB, m Model, s Serving) Need {
	tb.Helper()
	n, err := m.Need(s)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// wantError says that err is there and says each of the parts.
func wantError(tb testing.TB, what string, err error, parts ...string) {
	tb.Helper()
	if err == nil {
		tb.Errorf("%s: no error", what)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			tb.Errorf("%s: %q does not say %q", what, err, part)
		}
	}
}

func hasNote(notes []string, part string) bool {
	for _, n := range notes {
		if strings.Contains(n, part) {
			return true
		}
	}
	return false
}

// llama are the tensors of a Llama: with the right numbers, of the real one.
func llama(layers, hidden, intermediate, kvDim, vocabulary uint64) []tensor {
	list := []tensor{
		{"model.embed_tokens.weight", "BF16", []uint64{vocabulary, hidden}},
		{"lm_head.weight", "BF16", []uint64{vocabulary, hidden}},
		{"model.norm.weight", "BF16", []uint64{hidden}},
	}
	for i := range layers {
		add := func(name string, shape ...uint64) {
			list = append(list, tensor{fmt.Sprintf("model.layers.%d.%s.weight", i, name), "BF16", shape})
		}
		add("self_attn.q_proj", hidden, hidden)
		add("self_attn.k_proj", kvDim, hidden)
		add("self_attn.v_proj", kvDim, hidden)
		add("self_attn.o_proj", hidden, hidden)
		add("mlp.gate_proj", intermediate, hidden)
		add("mlp.up_proj", intermediate, hidden)
		add("mlp.down_proj", hidden, intermediate)
		add("input_layernorm", hidden)
		add("post_attention_layernorm", hidden)
	}
	return list
}

const llama8BConfig = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": false,
"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}}`

// llama8B is Llama-3.1-8B in four shards with an index.
func llama8B(tb testing.TB) Model {
	tb.Helper()
	all := llama(32, 4096, 14336, 1024, 128256)
	m := newModel(llama8BConfig)
	index := map[string]string{}
	for i := range 4 {
		name := fmt.Sprintf("model-%05d-of-00004.safetensors", i+1)
		var part []tensor
		for j := i; j < len(all); j += 4 {
			part = append(part, all[j])
			index[all[j].name] = name
		}
		m.with(tb, name, part...)
	}
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 1}, "weight_map": index})
	if err != nil {
		tb.Fatal(err)
	}
	return read(tb, m.file("model.safetensors.index.json", string(text)))
}

// tiny is a small whole model, for tests of other things than its numbers.
func tiny(tb testing.TB, config string) model {
	tb.Helper()
	return newModel(config).with(tb, "model.safetensors", tensor{"w", "BF16", []uint64{1024}})
}

func readHeaderOf(data []byte, size int64) ([]Tensor, error) {
	var got []Tensor
	err := ReadHeader(bytes.NewReader(data), size, func(t Tensor) error {
		t.Shape = slices.Clone(t.Shape)
		got = append(got, t)
		return nil
	})
	return got, err
}
