package sizing

import (
	"strings"
	"testing"
)

// kv is what a config.json should come to, at a tensor parallelism.
type kv struct {
	tp         int
	perToken   uint64 // layers that keep every token
	window     uint64 // bytes per token of layers with a window
	windowLen  uint64 // tokens in the window
	length     int64
	dtype      string
	estimated  bool
	stateBytes bool // there is a state
}

func TestArchitectures(t *testing.T) {
	tests := map[string]struct {
		config string
		want   []kv
	}{
		"DeepSeek-V3": {
			`{"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
			"max_position_embeddings": 163840, "moe_intermediate_size": 2048, "n_shared_experts": 1, "num_attention_heads": 128,
			"num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
			"q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
			"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
			"rope_scaling": {"beta_fast": 32, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"}}`,
			[]kv{{tp: 1, perToken: 70272, length: 163840, dtype: "bfloat16"}, {tp: 8, perToken: 70272, length: 163840, dtype: "bfloat16"}},
		},
		"Llama-3.1-70B": {
			`{"model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
			"num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_scaling": {"factor": 8.0, "rope_type": "llama3"}}`,
			[]kv{
				{tp: 1, perToken: 327680, length: 131072, dtype: "bfloat16"},
				{tp: 8, perToken: 40960, length: 131072, dtype: "bfloat16"},
				{tp: 16, perToken: 40960, length: 131072, dtype: "bfloat16"},
			},
		},
		"Qwen2.5-7B, its window off": {
			`{"model_type": "qwen2", "torch_dtype": "bfloat16", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
			"num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_window": 131072, "max_window_layers": 28, "use_sliding_window": false}`,
			[]kv{{tp: 1, perToken: 57344, length: 32768, dtype: "bfloat16"}, {tp: 4, perToken: 14336, length: 32768, dtype: "bfloat16"}},
		},
		"Qwen2, its window on": {
			`{"model_type": "qwen2", "torch_dtype": "bfloat16", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
			"num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 21, "use_sliding_window": true}`,
			[]kv{{tp: 1, perToken: 21 * 2048, window: 7 * 2048, windowLen: 4095 + 8192, length: 32768, dtype: "bfloat16"}},
		},
		"Qwen3-4B, explicit head_dim": {
			`{"model_type": "qwen3", "torch_dtype": "bfloat16", "head_dim": 128, "hidden_size": 2560, "num_hidden_layers": 36,
			"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 40960, "sliding_window": null}`,
			[]kv{{tp: 1, perToken: 147456, length: 40960, dtype: "bfloat16"}},
		},
		"Mistral-7B-v0.1": {
			`{"model_type": "mistral", "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
			"num_key_value_heads": 8, "max_position_embeddings": 32768, "sliding_window": 4096}`,
			[]kv{{tp: 1, window: 131072, windowLen: 4095 + 8192, length: 32768, dtype: "bfloat16"}},
		},
		"Gemma-3-27B, nested, by pattern": {
			`{"model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"num_hidden_layers": 27, "num_attention_heads": 16},
			"text_config": {"model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376, "num_attention_heads": 32, "num_hidden_layers": 62,
			"num_key_value_heads": 16, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "max_position_embeddings": 131072, "sliding_window": 1024}}`,
			[]kv{{tp: 1, perToken: 10 * 8192, window: 52 * 8192, windowLen: 1023 + 8192, length: 131072, dtype: "bfloat16"}},
		},
		"gpt-oss, by list": {
			`{"model_type": "gpt_oss", "head_dim": 64, "hidden_size": 2880, "num_attention_heads": 64, "num_hidden_layers": 4, "num_key_value_heads": 8,
			"max_position_embeddings": 131072, "sliding_window": 128, "initial_context_length": 4096,
			"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
			"rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn"},
			"quantization_config": {"quant_method": "mxfp4"}, "dtype": "bfloat16"}`,
			[]kv{{tp: 1, perToken: 2 * 2048, window: 2 * 2048, windowLen: 127 + 8192, length: 131072, dtype: "bfloat16"}},
		},
		"Falcon-7B, one KV head": {
			`{"model_type": "falcon", "torch_dtype": "bfloat16", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
			"multi_query": true, "new_decoder_architecture": false, "max_position_embeddings": 2048}`,
			[]kv{{tp: 1, perToken: 32 * 2 * 64 * 2, length: 2048, dtype: "bfloat16"}},
		},
		"GPT-2, old names": {
			`{"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_ctx": 1024}`,
			[]kv{{tp: 1, perToken: 12 * 2 * 768 * 2, length: 1024, dtype: "bfloat16"}, {tp: 12, perToken: 12 * 2 * 64 * 2, length: 1024, dtype: "bfloat16"}},
		},
		"MPT, nested attention": {
			`{"model_type": "mpt", "torch_dtype": "bfloat16", "d_model": 4096, "n_heads": 32, "n_layers": 32, "max_seq_len": 2048, "attn_config": {"kv_n_heads": 4}}`,
			[]kv{{tp: 1, perToken: 32 * 4 * 256 * 2, length: 2048, dtype: "bfloat16"}},
		},
		"ChatGLM": {
			`{"model_type": "chatglm", "torch_dtype": "float16", "hidden_size": 4096, "num_attention_heads": 32, "num_layers": 28, "kv_channels": 128,
			"multi_query_attention": true, "multi_query_group_num": 2, "seq_length": 8192}`,
			[]kv{{tp: 1, perToken: 28 * 2 * 256 * 2, length: 8192, dtype: "float16"}, {tp: 4, perToken: 28 * 256 * 2, length: 8192, dtype: "float16"}},
		},
		"keys and values of different width": {
			`{"model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 192,
			"v_head_dim": 128, "max_position_embeddings": 4096}`,
			[]kv{{tp: 1, perToken: 2 * 2 * 320 * 2, length: 4096, dtype: "bfloat16"}},
		},
		"compressed-tensors with an fp8 cache": {
			`{"model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 4096,
			"quantization_config": {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"},
			"config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}}`,
			[]kv{{tp: 1, perToken: 2 * 2048, length: 4096, dtype: "fp8"}},
		},
		"quantized, the cache not": {
			`{"model_type": "llama", "torch_dtype": "float16", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 4096,
			"quantization_config": {"quant_method": "gptq", "bits": 4}}`,
			[]kv{{tp: 1, perToken: 2 * 2048 * 2, length: 4096, dtype: "float16"}},
		},
		"Jamba, every eighth layer": {
			`{"model_type": "jamba", "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
			"num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
			"max_position_embeddings": 262144}`,
			[]kv{{tp: 1, perToken: 4 * 4096, length: 262144, dtype: "bfloat16", estimated: true, stateBytes: true}},
		},
		"Qwen3-Next, every fourth layer": {
			`{"model_type": "qwen3_next", "torch_dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
			"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
			"linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "max_position_embeddings": 262144}`,
			[]kv{{tp: 1, perToken: 12 * 2048, length: 262144, dtype: "bfloat16", estimated: true, stateBytes: true}},
		},
		"Nemotron-H, by pattern": {
			`{"model_type": "nemotron_h", "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 32,
			"num_key_value_heads": 8, "head_dim": 128, "hybrid_override_pattern": "M-M-M*-M", "ssm_state_size": 128, "conv_kernel": 4, "expand": 2,
			"max_position_embeddings": 8192}`,
			[]kv{{tp: 1, perToken: 4096, length: 8192, dtype: "bfloat16", estimated: true, stateBytes: true}},
		},
		"Mamba, no attention at all": {
			`{"model_type": "mamba2", "torch_dtype": "bfloat16", "hidden_size": 2560, "num_hidden_layers": 64, "num_heads": 80, "head_dim": 64,
			"state_size": 128, "conv_kernel": 4, "expand": 2}`,
			[]kv{{tp: 1, length: 2048, dtype: "bfloat16", estimated: true, stateBytes: true}},
		},
		"MiniCPM3, latent in the file, plain in vLLM": {
			`{"model_type": "minicpm3", "torch_dtype": "bfloat16", "hidden_size": 2560, "num_hidden_layers": 62, "num_attention_heads": 40,
			"num_key_value_heads": 40, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "max_position_embeddings": 32768}`,
			[]kv{{tp: 1, perToken: 62 * 40 * 192 * 2, length: 32768, dtype: "bfloat16"}},
		},
		"Falcon-H1, attention and a state in each layer": {
			`{"model_type": "falcon_h1", "torch_dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 8,
			"num_key_value_heads": 2, "head_dim": 128, "mamba_d_ssm": 3072, "mamba_d_state": 256, "mamba_n_groups": 1, "mamba_d_conv": 4,
			"max_position_embeddings": 131072}`,
			[]kv{{tp: 1, perToken: 24 * 1024, length: 131072, dtype: "bfloat16", estimated: true, stateBytes: true}},
		},
		"heads that differ by layer": {
			`{"model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
			"num_key_value_heads": [2, 4], "max_position_embeddings": 4096}`,
			[]kv{{tp: 1, perToken: 2 * 4 * 256 * 2, length: 4096, dtype: "bfloat16", estimated: true}},
		},
		"a model_type that nobody knows": {
			`{"model_type": "llama9", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
			"max_position_embeddings": 4096}`,
			[]kv{{tp: 1, perToken: 2 * 4096, length: 4096, dtype: "bfloat16", estimated: true}},
		},
		"layers of a new type": {
			`{"model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 4096,
			"layer_types": ["full_attention", "quantum_attention"]}`,
			[]kv{{tp: 1, perToken: 2 * 4096, length: 4096, dtype: "bfloat16", estimated: true}},
		},
	}
	for name, tt := range tests {
		m := read(t, tiny(t, tt.config))
		for _, want := range tt.want {
			n := need(t, m, Serving{TensorParallel: want.tp, VLLMVersion: oneBatch})
			got := kv{
				want.tp, n.KVBytesPerToken, n.KVWindowBytesPerToken, n.KVWindowTokens, n.MaxModelLen, n.KVCacheDtype, n.Estimated, n.KVStateBytes > 0,
			}
			if got != want {
				t.Errorf("%s: got %+v, want %+v; notes %q", name, got, want, n.Notes)
			}
			if n.Estimated != (len(m.Architecture.Notes) > 0) {
				t.Errorf("%s: estimated is %v, notes %q", name, n.Estimated, m.Architecture.Notes)
			}
		}
	}
}

func TestWindowBoundsTheCache(t *testing.T) {
	m := read(t, tiny(t, `{"model_type": "mistral", "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 32,
		"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768, "sliding_window": 4096}`))
	for _, tt := range []struct {
		length int64
		tokens uint64
	}{
		{1, 16 + 16}, {16, 16 + 16}, {17, 32 + 16}, {4096, 4096 + 16}, {12287, 12288 + 16}, {12288, 12288 + 16}, {32768, 12288 + 16},
	} {
		if got := need(t, m, Serving{MaxModelLen: tt.length, VLLMVersion: oneBatch}).KVBytes; got != tt.tokens*131072 {
			t.Errorf("%d tokens: cache of %d bytes; want that of %d tokens in whole blocks", tt.length, got, tt.tokens)
		}
	}
}

func TestMaximalLength(t *testing.T) {
	for config, want := range map[string]int64{
		`{}`:                                2048,
		`{"max_position_embeddings": null}`: 2048,
		`{"max_position_embeddings": 4096.0, "seq_length": 2048}`:                                                                                 2048,
		`{"max_position_embeddings": 8192, "model_max_length": 131072}`:                                                                           131072, // Command-R
		`{"max_position_embeddings": 8192, "model_max_length": 4096}`:                                                                             4096,
		`{"max_position_embeddings": 4096, "rope_scaling": null}`:                                                                                 4096,
		`{"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.5}}`:                                                    10240,
		`{"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}`:                                                8192,
		`{"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", "factor": 32}}`:                                                 131072,
		`{"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_scaling": {"rope_type": "longrope"}}`:                4096,
		`{"max_position_embeddings": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}`:                                    32768,
		`{"max_position_embeddings": 32768, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}`:     32768,
		`{"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}}`: 131072,
		`{"max_position_embeddings": 32768, "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
			"sliding_attention": {"rope_type": "default"}}}`: 32768,
		`{"max_position_embeddings": 32768, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}}}`: 65536,
		`{"max_position_embeddings": 1099511627776, "rope_scaling": {"type": "linear", "factor": 1e12}}`:                                                                   maxNumber,
	} {
		if got := read(t, tiny(t, config)).Architecture.MaxModelLen; got != want {
			t.Errorf("%s: %d; want %d", config, got, want)
		}
	}
}

// vLLM refuses requests that are longer than the model, where the model names a length.
func TestCheckLength(t *testing.T) {
	for _, tt := range []struct {
		config  string
		serving Serving
		refused string
	}{
		{`{"max_position_embeddings": 4096}`, Serving{}, ""},
		{`{"max_position_embeddings": 4096}`, Serving{MaxModelLen: 4096}, ""},
		{`{"max_position_embeddings": 4096}`, Serving{MaxModelLen: 4097}, "maxModelLen 4097 is beyond the model's own 4096, which vLLM refuses"},
		{`{"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2}}`, Serving{MaxModelLen: 8192}, ""},
		{`{"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_scaling": {"rope_type": "longrope"}}`, Serving{MaxModelLen: 131072}, ""},
		{`{"max_position_embeddings": 8192, "model_max_length": 131072}`, Serving{MaxModelLen: 131072}, ""},
		{`{"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 131072}}`, Serving{MaxModelLen: 524288}, "131072"},
		{`{"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 131072}}`, Serving{MaxModelLen: 524288, VLLMVersion: "0.19"}, ""},
		{`{}`, Serving{MaxModelLen: 1 << 20}, ""},
		{`{"max_position_embeddings": "many"}`, Serving{MaxModelLen: 1 << 20}, ""},
		{`{"max_position_embeddings": 4096}`, Serving{VLLMVersion: "0.1"}, "0.1"},
	} {
		err := read(t, tiny(t, tt.config)).CheckLength(tt.serving)
		if (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s, %+v: %v; want %q", tt.config, tt.serving, err, tt.refused)
		}
	}
}

// TestTheTokenizersLengthIsNotTheModels: it is often absurd (1e30), or shorter
// than what the model was made for.
func TestTheTokenizersLengthIsNotTheModels(t *testing.T) {
	m := read(t, tiny(t, `{"max_position_embeddings": 4096}`).file("tokenizer_config.json", `{"model_max_length": 512}`))
	if got := m.Architecture.MaxModelLen; got != 4096 {
		t.Errorf("maximal length %d; want 4096", got)
	}
}

func TestUnknownArchitecture(t *testing.T) {
	m := read(t, newModel(`{"model_type": "brainfog", "d_think": 12}`).with(t, "model.safetensors", tensor{"w", "BF16", []uint64{1 << 20}}))
	n := need(t, m, Serving{})
	if n.WeightsBytes != 2<<20 || n.KVBytesPerToken != 0 || n.KVBytes != 512<<10 || !n.Estimated {
		t.Errorf("%+v", n)
	}
	if !hasNote(n.Notes, `"brainfog"`) || !hasNote(n.Notes, "a quarter of the weights") {
		t.Errorf("notes: %q", n.Notes)
	}
	if n.CacheTokens(l4, 0) != 0 || n.LargestMaxModelLen(l4, 4096) != 0 {
		t.Error("tokens are told of a cache that is not known")
	}
	if !n.Fits(l4, l4) {
		t.Errorf("does not fit: %s", n.Obstacle(l4, l4))
	}
}

func TestModelOptSaysTheCacheInAFileOfItsOwn(t *testing.T) {
	m := read(t, tiny(t, `{"model_type": "llama", "torch_dtype": "bfloat16"}`).file("hf_quant_config.json",
		`{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}`))
	if a := m.Architecture; a.KVCacheDType != "fp8" || a.Quantization != "fp8" {
		t.Errorf("%+v", a)
	}
}

// TestPythonsNumbers: Python writes what is no JSON, and reads it again.
func TestPythonsNumbers(t *testing.T) {
	m := read(t, tiny(t, `{"time_step_limit": [0.0, Infinity], "a": -Infinity, "b": NaN, "model_type": "\"Infinity NaN", "hidden_size": 7}`))
	if a := m.Architecture; a.HiddenSize != 7 || a.ModelType != `"Infinity NaN` {
		t.Errorf("%+v", a)
	}
	for _, config := range []string{`{"a": Infin}`, `{"a": Na`, `{"a": NaNaN}`, `{"a": --Infinity}`, `{"a": "NaN}`, `{"a": "NaN\`} {
		if _, err := ReadModel(tiny(t, config)); err == nil {
			t.Errorf("accepted: %s", config)
		}
	}
}

func TestWhatIsLeftOutIsSaid(t *testing.T) {
	m := read(t, tiny(t, `{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
		"index_head_dim": 128, "num_kv_shared_layers": 0, "block_configs": [], "is_encoder_decoder": false, "compress_ratios": null}`))
	a := m.Architecture
	if !a.Estimated || len(a.Notes) != 1 || !hasNote(a.Notes, "index_head_dim") {
		t.Errorf("notes: %q", a.Notes)
	}
}
