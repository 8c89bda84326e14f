package sizing

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

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
			newModel(`{}`).with(t, "consolidated.safetensors", a).with(t, "model.safetensors", b), []string{"consolidated.safetensors"}, 20,
		},
		"consolidated, and another's index": {
			newModel(`{}`).file("model.safetensors.index.json", index).with(t, "consolidated-1.safetensors", a).with(t, "consolidated-2.safetensors", b),
			[]string{"consolidated-1.safetensors", "consolidated-2.safetensors"},
			220,
		},
		"consolidated with an index": {
			newModel(`{}`).file("consolidated.safetensors.index.json", `{"weight_map": {"a": "consolidated-1.safetensors"}}`).
				with(t, "consolidated-1.safetensors", a).with(t, "consolidated-2.safetensors", b),
			[]string{"consolidated-1.safetensors"},
			20,
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
		"config is a list": {newModel(`[]`).with(t, "model.safetensors", a), []string{"config.json", "it is a JSON array; want an object"}},
		"config is null":   {newModel(`null`).with(t, "model.safetensors", a), []string{"config.json", "not a JSON object"}},
		"config is empty":  {newModel(``).with(t, "model.safetensors", a), []string{"config.json", "it is empty"}},
		"text_config is 1": {newModel(`{"text_config": 1}`).with(t, "model.safetensors", a), []string{"text_config is 1", "object"}},
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

// TestStrangeFieldsAreEstimates: the weights are known all the same.
func TestStrangeFieldsAreEstimates(t *testing.T) {
	for config, want := range map[string]string{
		`{"num_hidden_layers": "many"}`:     `num_hidden_layers is "many"; want a whole number`,
		`{"num_attention_heads": -4}`:       "num_attention_heads is -4",
		`{"head_dim": 64.5}`:                "head_dim is 64.5",
		`{"hidden_size": 1e300}`:            "hidden_size is 1e300",
		`{"layer_types": 1}`:                "layer_types is 1; want a list",
		`{"model_type": ["a"]}`:             `model_type is ["a"]; want a string`,
		`{"quantization_config": "fp8"}`:    `quantization_config is "fp8"; want an object`,
		`{"attn_config": 7, "n_layers": 2}`: "attn_config is 7",
		`{"linear_attn_config": []}`:        "linear_attn_config is []",
		`{"max_position_embeddings": {}}`:   "max_position_embeddings is {}",
		`{"torch_dtype": 16}`:               "torch_dtype is 16",
		`{"sliding_window": "wide"}`:        `sliding_window is "wide"`,
		`{"max_position_embeddings": 8, "rope_scaling": {"rope_type": "linear", "factor": 0}}`: "factor is 0",
	} {
		m := read(t, newModel(config).with(t, "model.safetensors", w("a", "BF16", 1000)))
		n := need(t, m, Serving{})
		if !m.Architecture.Estimated || !n.Estimated || !hasNote(n.Notes, want) {
			t.Errorf("%s: estimated is %v, notes %q", config, n.Estimated, n.Notes)
		}
		if n.WeightsBytes != 2000 || n.KVBytes != 500 || m.Weights.Estimated || !n.Fits(10*gi, 10*gi) {
			t.Errorf("%s: %+v; want the weights, and a quarter of them for the cache", config, n)
		}
	}
}

func TestTypesOfTomorrow(t *testing.T) {
	const text = `{"a":{"dtype":"NEW3","shape":[8],"data_offsets":[0,3]},"b":{"dtype":"\u001b[31m","shape":[2],"data_offsets":[3,5]}}`
	m := newModel(`{}`)
	m.MapFS["model.safetensors"], m.sizes["model.safetensors"] = &fstest.MapFile{Data: raw(text)}, int64(8+len(text)+5)
	got := read(t, m).Weights
	if diff := cmp.Diff(map[string]uint64{"other": 5}, got.ByDType); diff != "" || got.Bytes != 5 || !hasNote(got.Notes, "5 bytes are of types") {
		t.Errorf("%+v", got)
	}
}

func TestTensorInTwoFilesCountsOnce(t *testing.T) {
	got := read(t, newModel(`{}`).with(t, "a.safetensors", w("x", "BF16", 10), w("y", "BF16", 10)).with(t, "b.safetensors", w("x", "BF16", 20))).Weights
	if got.Bytes != 40 || got.LoadedBytes != 40 || got.Parameters != 20 || !got.Estimated || !hasNote(got.Notes, "1 tensors stand in more than one file") {
		t.Errorf("%+v", got)
	}
}

// TestEveryType: what the safetensors library knows, in bits.
func TestEveryType(t *testing.T) {
	for dtype, bits := range map[string]uint64{
		"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
		"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
	} {
		// Quantized, so that nothing is loaded at another width.
		m := newModel(`{"quantization_config": {"quant_method": "x"}}`).with(t, "model.safetensors", w("a", dtype, 4, 6), w("b", dtype, 8))
		got := read(t, m).Weights
		if got.Bytes != 32*bits/8 || got.LoadedBytes != got.Bytes || got.ByDType[dtype] != got.Bytes {
			t.Errorf("%s: %+v; want %d bytes", dtype, got, 32*bits/8)
		}
		// Half a byte cannot be stored, a byte too much or too little is damage.
		for _, entry := range []string{
			`{"a":{"dtype":"` + dtype + `","shape":[1],"data_offsets":[0,0]}}`, `{"a":{"dtype":"` + dtype + `","shape":[1],"data_offsets":[0,9]}}`,
		} {
			if _, err := readHeaderOf(raw(entry), int64(8+len(entry)+9)); err == nil {
				t.Errorf("accepted: %s", entry)
			}
		}
	}
	for _, entry := range []string{
		`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, `{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}`,
		`{"a":{"dtype":"F6_E2M3","shape":[1],"data_offsets":[0,1]}}`, `{"a":{"dtype":"F6_E3M2","shape":[5],"data_offsets":[0,4]}}`,
	} {
		if _, err := readHeaderOf(raw(entry), int64(8+len(entry)+4)); err == nil {
			t.Errorf("accepted: %s", entry)
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
		"extra layers by name": {
			`{}`,
			[]tensor{w("model.layers.0.a", "BF16", 10), w("mtp.layers.0.a", "BF16", 10), w("model.mtp_layers.0.a", "BF16", 10)},
			60, 20, 30, 0, "speculative",
		},
		"float8 that nobody speaks of": {
			`{}`, []tensor{w("a", "F8_E4M3", 10, 10)}, 100, 200, 100, 0, "twice their width",
		},
		"tied under other names": {
			`{"tie_word_embeddings": true}`,
			[]tensor{w("transformer.wte.weight", "F16", 10, 10), w("lm_head.weight", "F16", 10, 10)},
			400, 200, 200, 0, "lm_head is tied",
		},
		"tied, only the head stored": {
			`{"tie_word_embeddings": true}`, []tensor{w("lm_head.weight", "F16", 10, 10)}, 200, 200, 100, 0, "",
		},
		"gptq of 3 bits": {
			`{"quantization_config": {"quant_method": "gptq", "bits": 3}}`,
			[]tensor{w("model.layers.0.q.qweight", "I32", 6, 64), w("model.layers.0.q.g_idx", "I32", 64), w("model.layers.0.q.scales", "F16", 1, 64)},
			1536 + 256 + 128, 1536 + 256 + 128, 64 * 64, 0, "",
		},
		"compressed-tensors": {
			`{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}}`,
			[]tensor{
				w("model.layers.0.q.weight_packed", "I32", 64, 8), w("model.layers.0.q.weight_scale", "BF16", 64, 1),
				w("model.layers.0.q.weight_shape", "I64", 2),
			},
			2048 + 128 + 16, 2048 + 128 + 16, 64 * 64, 0, "",
		},
		"bitsandbytes": {
			`{"quantization_config": {"quant_method": "bitsandbytes"}}`,
			[]tensor{w("q.weight", "U8", 512, 1), w("q.weight.absmax", "U8", 16), w("q.weight.quant_map", "F32", 16), w("q.weight.quant_state.bitsandbytes__nf4", "U8", 80)},
			512 + 16 + 64 + 80, 512 + 16 + 64 + 80, 1024, 0, "",
		},
		"biases, positions and the indexer stay whole": {
			`{}`,
			[]tensor{
				w("model.layers.0.self_attn.o_proj.bias", "BF16", 8), w("model.layers.0.self_attn.q_proj.bias", "BF16", 8),
				w("transformer.wpe.weight", "BF16", 4, 8), w("model.layers.0.self_attn.indexer.wk.weight", "BF16", 4, 8),
				w("visual.patch_embed.proj.weight", "BF16", 2, 2),
			},
			16 + 16 + 64 + 64 + 8, 16 + 16 + 64 + 64 + 8, 8 + 8 + 32 + 32 + 4, 16 + 64 + 64 + 8, "",
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
