package sizing

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func w(name, dtype string, shape ...uint64) tensor { return tensor{name, dtype, shape} }

func TestWhichFilesCount(t *testing.T) {
	a, b := w("a", "BF16", 10), w("b", "BF16", 100)
	index := `{"metadata": {}, "weight_map": {"a": "part1.safetensors", "b": "sub/part2.safetensors", "c": "part1.safetensors"}}`
	tests := map[string]struct {
		m     model
		files []string
		bytes uint64
	}{
		"one file": {newModel(`{}`).with(t, "model.safetensors", a), []string{"model.safetensors"}, 20},
		"several files": {
			newModel(`{}`).with(t, "y.safetensors", a).with(t, "x.safetensors", b).with(t, "sub/z.safetensors", b),
			[]string{"x.safetensors", "y.safetensors"},
			220,
		},
		"index": {
			newModel(`{}`).file("model.safetensors.index.json", index).with(t, "part1.safetensors", a).
				with(t, "sub/part2.safetensors", b).with(t, "other.safetensors", b),
			[]string{"part1.safetensors", "sub/part2.safetensors"},
			220,
		},
		"consolidated beside others": {
			newModel(`{}`).with(t, "consolidated.safetensors", a).with(t, "model.safetensors", b), []string{"model.safetensors"}, 200,
		},
		"consolidated alone": {newModel(`{}`).with(t, "consolidated.safetensors", a), []string{"consolidated.safetensors"}, 20},
		"safetensors before bin": {
			newModel(`{}`).with(t, "model.safetensors", a).file("pytorch_model.bin", "0123456789"), []string{"model.safetensors"}, 20,
		},
		"bin": {
			newModel(`{}`).file("pytorch_model.bin", "0123456789").file("training_args.bin", "01"), []string{"pytorch_model.bin"}, 10,
		},
		"bin with an index": {
			newModel(`{}`).file("pytorch_model.bin.index.json", `{"weight_map": {"a": "1.bin", "b": "2.bin"}}`).
				file("1.bin", "1").file("2.bin", "22").file("3.bin", "333"), []string{"1.bin", "2.bin"}, 3,
		},
		"gguf": {newModel(`{}`).file("q4.gguf", "0123").file("q8.gguf", "01234567"), []string{"q4.gguf", "q8.gguf"}, 12},
	}
	for name, tt := range tests {
		got := read(t, tt.m).Weights
		if diff := cmp.Diff(tt.files, got.Files); diff != "" || got.Bytes != tt.bytes || got.LoadedBytes != tt.bytes {
			t.Errorf("%s: %d bytes (%d loaded), want %d; files (-want +got):\n%s", name, got.Bytes, got.LoadedBytes, tt.bytes, diff)
		}
		if wantGuess := name == "gguf" || name == "bin" || name == "bin with an index"; got.Estimated != wantGuess || wantGuess && len(got.Notes) == 0 {
			t.Errorf("%s: estimated is %v, notes %q", name, got.Estimated, got.Notes)
		}
	}
}

func TestBadModels(t *testing.T) {
	a := w("a", "BF16", 10)
	tests := map[string]struct {
		m    model
		want []string
	}{
		"no weights":       {newModel(`{}`), []string{"no safetensors"}},
		"damaged header":   {newModel(`{}`).file("model.safetensors", "junk"), []string{"model.safetensors", "length"}},
		"index of nothing": {newModel(`{}`).file("model.safetensors.index.json", `{}`), []string{"index.json", "weight_map"}},
		"index not JSON":   {newModel(`{}`).file("model.safetensors.index.json", `{"weight_map": `), []string{"index.json"}},
		"index goes on":    {newModel(`{}`).file("model.safetensors.index.json", `{"weight_map": {"a": "b"}} 1`), []string{"index.json", "goes on"}},
		"index escapes": {
			newModel(`{}`).file("model.safetensors.index.json", `{"weight_map": {"a": "../b.safetensors"}}`),
			[]string{"index.json", `"../b.safetensors"`, `"a"`},
		},
		"index of a missing file": {
			newModel(`{}`).file("model.safetensors.index.json", `{"weight_map": {"a": "b.safetensors"}}`), []string{"b.safetensors"},
		},
		"config is a list":     {newModel(`[]`).with(t, "model.safetensors", a), []string{"config.json"}},
		"config is null":       {newModel(`null`).with(t, "model.safetensors", a), []string{"config.json", "not a JSON object"}},
		"config is empty":      {newModel(``).with(t, "model.safetensors", a), []string{"config.json", "unexpected EOF"}},
		"layers are words":     {newModel(`{"num_hidden_layers": "many"}`).with(t, "model.safetensors", a), []string{"config.json", `num_hidden_layers is "many"`, "number"}},
		"heads are negative":   {newModel(`{"num_attention_heads": -4}`).with(t, "model.safetensors", a), []string{"num_attention_heads is -4"}},
		"head_dim is half":     {newModel(`{"head_dim": 64.5}`).with(t, "model.safetensors", a), []string{"head_dim is 64.5"}},
		"hidden is enormous":   {newModel(`{"hidden_size": 1e300}`).with(t, "model.safetensors", a), []string{"hidden_size is 1e300"}},
		"text_config is 1":     {newModel(`{"text_config": 1}`).with(t, "model.safetensors", a), []string{"text_config is 1", "object"}},
		"layer_types is 1":     {newModel(`{"layer_types": 1}`).with(t, "model.safetensors", a), []string{"layer_types is 1", "list"}},
		"rope factor is 0":     {newModel(`{"max_position_embeddings": 8, "rope_scaling": {"rope_type": "linear", "factor": 0}}`).with(t, "model.safetensors", a), []string{"factor is 0"}},
		"quantization is text": {newModel(`{"quantization_config": "fp8"}`).with(t, "model.safetensors", a), []string{"quantization_config", "object"}},
	}
	for name, tt := range tests {
		_, err := ReadModel(tt.m)
		wantError(t, name, err, tt.want...)
	}
	noConfig := newModel("").with(t, "model.safetensors", a)
	delete(noConfig.MapFS, "config.json")
	for name, m := range map[string]model{"config": noConfig, "weights": newModel(`{}`), "shard": tests["index of a missing file"].m} {
		if _, err := ReadModel(m); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing %s: %v; want fs.ErrNotExist", name, err)
		}
	}
}

func TestWhatIsLoaded(t *testing.T) {
	tests := map[string]struct {
		config                               string
		tensors                              []tensor
		bytes, loaded, parameters, duplicate uint64
		note                                 string
	}{
		"plain": {
			`{}`, []tensor{w("model.embed_tokens.weight", "F16", 10, 10), w("lm_head.weight", "F16", 10, 10)}, 400, 400, 200, 0, "",
		},
		"tied": {
			`{"tie_word_embeddings": true}`,
			[]tensor{w("model.embed_tokens.weight", "F16", 10, 10), w("lm_head.weight", "F16", 10, 10)},
			400, 200, 200, 0, "lm_head is tied",
		},
		"tied, stored once": {
			`{"tie_word_embeddings": true}`, []tensor{w("model.embed_tokens.weight", "F16", 10, 10)}, 200, 200, 100, 0, "",
		},
		"float32": {
			`{"torch_dtype": "float32"}`, []tensor{w("a", "F32", 10, 10), w("b", "F32", 10)}, 440, 240, 110, 0, "float32",
		},
		"extra layers": {
			`{"num_hidden_layers": 2, "num_nextn_predict_layers": 1}`,
			[]tensor{w("model.layers.0.a", "BF16", 10), w("model.layers.1.a", "BF16", 10), w("model.layers.2.norm", "BF16", 10)},
			60, 40, 30, 0, "speculative",
		},
		"replicated": {
			`{}`,
			[]tensor{
				w("model.layers.0.input_layernorm.weight", "BF16", 8), w("model.layers.0.mlp.gate.weight", "BF16", 4, 8),
				w("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "BF16", 8, 8), w("model.layers.0.self_attn.q_b_proj.weight", "BF16", 8, 8),
			},
			16 + 64 + 128 + 128, 16 + 64 + 128 + 128, 8 + 32 + 64 + 64, 16 + 64 + 128, "",
		},
		"awq": {
			`{"quantization_config": {"quant_method": "awq", "bits": 4}}`,
			[]tensor{
				w("model.layers.0.q.qweight", "I32", 64, 8), w("model.layers.0.q.qzeros", "I32", 1, 8), w("model.layers.0.q.scales", "F16", 1, 64),
				w("model.embed_tokens.weight", "F16", 10, 10),
			},
			2048 + 32 + 128 + 200, 2048 + 32 + 128 + 200, 64*64 + 100, 0, "",
		},
		"mxfp4": {
			`{"quantization_config": {"quant_method": "mxfp4"}}`,
			[]tensor{w("model.layers.0.mlp.experts.down_proj_blocks", "U8", 2, 16), w("model.layers.0.mlp.experts.down_proj_scales", "U8", 2, 1)},
			34, 34, 64, 0, "",
		},
		"fp8": {
			`{"quantization_config": {"quant_method": "fp8"}}`,
			[]tensor{w("model.layers.0.q.weight", "F8_E4M3", 16, 16), w("model.layers.0.q.weight_scale_inv", "F32", 1, 1)},
			260, 260, 256, 0, "",
		},
	}
	for name, tt := range tests {
		got := read(t, newModel(tt.config).with(t, "model.safetensors", tt.tensors...)).Weights
		if got.Bytes != tt.bytes || got.LoadedBytes != tt.loaded || got.Parameters != tt.parameters && tt.note == "" || got.ReplicatedBytes != tt.duplicate {
			t.Errorf("%s: %+v", name, got)
		}
		if (tt.note == "") != (len(got.Notes) == 0) || tt.note != "" && !hasNote(got.Notes, tt.note) {
			t.Errorf("%s: notes %q; want %q", name, got.Notes, tt.note)
		}
	}
}
