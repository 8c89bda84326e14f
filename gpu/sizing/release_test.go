package sizing

import "testing"

// oneBatch is a release in which a window keeps the tokens of one batch, and a hybrid one block of each state.
const oneBatch = "0.25"

// TestReleases: what differs between releases, in the answer.
func TestReleases(t *testing.T) {
	const (
		window = `{"model_type": "mistral", "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
			"num_key_value_heads": 8, "max_position_embeddings": 32768, "sliding_window": 4096}`
		hybrid = `{"model_type": "qwen3_next", "torch_dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
			"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
			"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "max_position_embeddings": 262144}`
		states = `{"model_type": "falcon_mamba", "torch_dtype": "bfloat16", "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 64,
			"state_size": 16, "conv_kernel": 4, "expand": 16}`
	)
	model := func(config string) func(*testing.T) Model {
		return func(t *testing.T) Model { t.Helper(); return read(t, tiny(t, config)) }
	}
	of := func(name string) func(*testing.T) Model {
		return func(t *testing.T) Model { t.Helper(); return shape(t, name) }
	}
	for _, tt := range []struct {
		what         string
		model        func(*testing.T) Model
		value        func(Need) uint64
		before, from string
		old, now     uint64
	}{
		{"the share of the memory", model(window), func(n Need) uint64 { return uint64(n.GPUMemoryUtilization * 100) }, "0.19", "0.20", 90, 92},
		{"tokens in a window", model(window), func(n Need) uint64 { return n.KVWindowTokens }, "0.25", "0.26", 4095 + 8192, 4095 + 16384},
		{"states of a hybrid", model(hybrid), func(n Need) uint64 { return n.KVStateBytes }, "0.25.1", "0.26.0", 36 * 544 * 2048, 2 * 36 * 544 * 2048},
		{"states alone", model(states), func(n Need) uint64 { return n.KVStateBytes }, "0.25", "0.33", 64 * 8192 * 19 * 2, 64 * 8192 * 19 * 2},
		{"the block that is held back", model(window), func(n Need) uint64 { return n.KVNullBlockBytes }, "0.28", "0.29", 0, 16 * 131072},
		{"a length by YaRN", of("qwen25-7b-yarn"), func(n Need) uint64 { return uint64(n.MaxModelLen) }, "0.29", "0.30", 131072, 32768},
		{"a length by LongRoPE", of("phi-3-medium-128k"), func(n Need) uint64 { return uint64(n.MaxModelLen) }, "0.19", "v0.33.0", 4096, 4096},
	} {
		m := tt.model(t)
		for version, want := range map[string]uint64{tt.before: tt.old, tt.from: tt.now} {
			n := need(t, m, Serving{VLLMVersion: version})
			if got := tt.value(n); got != want {
				t.Errorf("%s with vLLM %s: %d; want %d", tt.what, n.VLLMVersion, got, want)
			}
		}
	}
	before, after := need(t, llama8B(t), Serving{VLLMVersion: "0.19"}), need(t, llama8B(t), Serving{VLLMVersion: "0.20"})
	if before.OverheadMaxBytes >= after.OverheadMaxBytes || before.outside == 0 || after.outside != 0 {
		t.Errorf("CUDA graphs: %d and %d beyond the budget, then %d and %d", before.OverheadMaxBytes, before.outside, after.OverheadMaxBytes, after.outside)
	}
	if r := report(t, shape(t, "phi-3-medium-128k"), Serving{MaxModelLen: 131072}, nil); hasNote(r.Notes, "beyond the model's own") {
		t.Errorf("a length that vLLM takes of LongRoPE: %q", r.Notes)
	}
}

func TestSameVLLMRelease(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"0.33", "0.33.1", true},
		{"v0.33.0", "0.33", true},
		{"0.33.0.post1", "0.33", false},
		{"0.32.1", "0.33", false},
		{"", "0.33", false},
		{"", "", false},
		{"0.99", "0.99", false},
		{"0.33rc1", "0.33", false},
	} {
		if got := SameVLLMRelease(tt.a, tt.b); got != tt.want || SameVLLMRelease(tt.b, tt.a) != got {
			t.Errorf("%q and %q: %v; want %v", tt.a, tt.b, got, tt.want)
		}
	}
}
