package sizing

import "testing"

// TestStates: the blocks are those that vLLM logs when it starts ("Setting
// attention block size to 544 tokens").
func TestStates(t *testing.T) {
	const (
		qwen3Next = `{"model_type": "qwen3_next", "torch_dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
			"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
			"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "max_position_embeddings": 262144}`
		nemotronH = `{"model_type": "nemotron_h", "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 32,
			"num_key_value_heads": 8, "head_dim": 128, "hybrid_override_pattern": "M-M-M*-M", "ssm_state_size": 128, "conv_kernel": 4, "expand": 2,
			"mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "max_position_embeddings": 8192}`
	)
	for _, tt := range []struct {
		name, config string
		tp           int
		block, state uint64
	}{
		{"Qwen3-Next", qwen3Next, 1, 544, 36 * 544 * 2048},
		{"Qwen3-Next", qwen3Next, 2, 544, 36 * 544 * 1024},
		{"Qwen3-Next", qwen3Next, 4, 272, 36 * 272 * 1024},
		{"Nemotron-H", nemotronH, 1, 528, 4 * 528 * 4096},
		{"Nemotron-H, groups repeated", nemotronH, 16, 272, 4 * 272 * 512}, // 8 of them on 16 GPUs
		{
			"float32 states",
			`{"model_type": "nemotron_h", "mamba_ssm_cache_dtype": "float32", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
			"num_key_value_heads": 1, "n_groups": 0, "head_dim": 4, "hybrid_override_pattern": "M*", "ssm_state_size": 8, "conv_kernel": 4, "mamba_num_heads": 4, "mamba_head_dim": 4}`,
			1, 48, 48 * 16, // 3 x 16 x 2 + 16 x 8 x 4 bytes
		},
		{
			"Falcon-Mamba, states only",
			`{"model_type": "falcon_mamba", "torch_dtype": "bfloat16", "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 64,
			"state_size": 16, "conv_kernel": 4, "expand": 16}`,
			2, 16, 64 * 4096 * (16 + 3) * 2,
		},
		{
			"LFM2, short convolutions",
			`{"model_type": "lfm2", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
			"num_key_value_heads": 8, "full_attn_idxs": [2, 3], "conv_L_cache": 3}`,
			1, 16, 2 * 16 * 2048,
		},
		{
			"Kimi Linear, latent and delta",
			`{"model_type": "kimi_linear", "torch_dtype": "bfloat16", "hidden_size": 2304, "num_hidden_layers": 4, "num_attention_heads": 32,
			"kv_lora_rank": 512, "qk_rope_head_dim": 64,
			"linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4}}`,
			1, 1888, 3 * 1888 * 1152, // 12288 x 3 x 2 + 32 x 128 x 128 x 4 = 2170880
		},
		{
			"MiniMax, linear attention",
			`{"model_type": "minimax", "torch_dtype": "bfloat16", "hidden_size": 6144, "num_hidden_layers": 4, "num_attention_heads": 64,
			"num_key_value_heads": 8, "head_dim": 128, "attn_type_list": [0, 0, 0, 1]}`,
			8, 512, 3 * 512 * 512, // 8 x 128 x 128 x 2
		},
	} {
		n := need(t, read(t, tiny(t, tt.config)), Serving{TensorParallel: tt.tp, VLLMVersion: oneBatch})
		if n.KVBlockTokens != tt.block || n.KVStateBytes != tt.state || !n.Estimated {
			t.Errorf("%s on %d GPUs: blocks of %d tokens, states of %d bytes; want %d and %d", tt.name, tt.tp, n.KVBlockTokens, n.KVStateBytes, tt.block, tt.state)
		}
		if n.KVBytes < n.KVStateBytes {
			t.Errorf("%s: cache of %d bytes with states of %d", tt.name, n.KVBytes, n.KVStateBytes)
		}
	}
}

// TestGroupsArePadded: Gemma 3's 10 full and 52 windowed layers come in groups of
// 10, so that 8 layers are padding.
func TestGroupsArePadded(t *testing.T) {
	const layer = 16 * 256 * 2
	n := need(t, read(t, tiny(t, `{"model_type": "gemma3_text", "torch_dtype": "bfloat16", "head_dim": 128, "hidden_size": 5376,
		"num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16, "max_position_embeddings": 131072, "sliding_window": 1024}`)), Serving{VLLMVersion: oneBatch})
	const inWindow = 9216 + 16 // 1023 + 8192 in whole blocks, and one more
	if want := uint64(8 * layer * inWindow); n.KVPaddingBytes != want {
		t.Errorf("padding of %d bytes; want %d", n.KVPaddingBytes, want)
	}
	if want := uint64(10*layer*131072 + 60*layer*inWindow); n.KVBytes != want {
		t.Errorf("cache of %d bytes; want %d", n.KVBytes, want)
	}
	for _, tt := range []struct {
		kinds []uint64
		want  uint64
	}{
		{[]uint64{0, 0, 0}, 1}, {[]uint64{7, 0, 0}, 7}, {[]uint64{10, 52, 0}, 10}, {[]uint64{8, 9, 0}, 9}, {[]uint64{8, 11, 0}, 11}, {[]uint64{8, 12, 0}, 8}, {[]uint64{12, 0, 36}, 12},
	} {
		if got := groupSize(tt.kinds...); got != tt.want {
			t.Errorf("groups of %v: %d; want %d", tt.kinds, got, tt.want)
		}
	}
}

func TestScalesInTheCache(t *testing.T) {
	m := llama8B(t)
	for _, dtype := range []string{"fp8_per_token_head", "int8_per_token_head"} {
		if got := need(t, m, Serving{KVCacheDtype: dtype}).KVBytesPerToken; got != 65536+32*8*8 {
			t.Errorf("%s: %d bytes a token", dtype, got)
		}
	}
}

// TestLatentCacheIsWhole: MLA's one latent vector is no KV head that is shared.
func TestLatentCacheIsWhole(t *testing.T) {
	m := read(t, tiny(t, `{"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "num_hidden_layers": 61, "num_attention_heads": 128,
		"kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163840}`))
	n := need(t, m, Serving{TensorParallel: 8})
	if n.KVBytesPerToken != 70272 || n.KVBytes != 163840*70272 || n.ReplicatedBytes != n.RotaryBytes || n.Estimated {
		t.Errorf("%+v", n)
	}
	if len(n.Notes) != 1 || !hasNote(n.Notes, "every GPU keeps all of it") {
		t.Errorf("notes %q", n.Notes)
	}
	if got := need(t, m, Serving{TensorParallel: 8, KVCacheDtype: "fp8"}).KVBytesPerToken; got != 70272/2 {
		t.Errorf("%d bytes a token in fp8", got)
	}
}

// TestFusedProjections: where queries, keys and values are one matrix, its keys
// and values are repeated like any others.
func TestFusedProjections(t *testing.T) {
	const config = `{"model_type": "falcon", "torch_dtype": "bfloat16", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 8,
		"num_kv_heads": 2, "new_decoder_architecture": true, "max_position_embeddings": 64}`
	m := read(t, newModel(config).with(t, "model.safetensors", w("transformer.h.0.self_attention.query_key_value.weight", "BF16", 96, 64)))
	if got := m.Weights.KVProjectionBytes; got != 32*64*2 { // 2 heads of 8 for keys, as many for values
		t.Errorf("keys and values of %d bytes", got)
	}
	if n := need(t, m, Serving{TensorParallel: 8}); n.ReplicatedBytes-n.RotaryBytes != 32*64*2/2-32*64*2/8 {
		t.Errorf("%d bytes are not split", n.ReplicatedBytes)
	}
}
