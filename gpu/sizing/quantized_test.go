package sizing

import (
	"math"
	"strings"
	"testing"
)

// TestSplitsOfQuantizedWeights: parts that are no whole blocks, as vLLM refuses them.
func TestSplitsOfQuantizedWeights(t *testing.T) {
	for _, tt := range []struct {
		model string
		tp    int
		want  []string // nothing: it starts
	}{
		{"qwen3-235b-fp8", 1, nil},
		{"qwen3-235b-fp8", 4, nil},
		{"qwen3-235b-fp8", 8, []string{"parts of 192", "block_n", "multiple of 128", "it takes 1, 2 or 4"}}, // vLLM: "output_size 192 is not divisible by block_n 128"
		{"deepseek-r1", 8, nil},
		{"deepseek-r1", 16, nil},
		{"qwen25-7b-awq", 2, nil},
		{"qwen25-7b-awq", 4, nil},
		{"qwen25-72b-gptq4", 8, nil},
		{"qwen25-7b", 4, nil},
		{"qwen3-14b", 5, []string{"tensorParallel is 5", "it takes 1, 2, 4 or 8"}}, // vLLM: "151936 is not divisible by 5"
		{"llama31-405b-fp8", 8, nil},
	} {
		why := shape(t, tt.model).refusal(tt.tp)
		if (why == "") != (tt.want == nil) {
			t.Errorf("%s on %d GPUs: %q", tt.model, tt.tp, why)
		}
		for _, want := range tt.want {
			if !strings.Contains(why, want) {
				t.Errorf("%s on %d GPUs: %q does not say %q", tt.model, tt.tp, why, want)
			}
		}
	}
	const config = `{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 8,
		"vocab_size": 128, "quantization_config": `
	for _, tt := range []struct {
		name, quantization string
		tensor             tensor
		able               []int
	}{
		{"GPTQ's groups, by input", `{"quant_method": "gptq", "bits": 4, "group_size": 128}`, tensor{"model.layers.0.mlp.down_proj.qweight", "I32", []uint64{384 / 8, 1024}}, []int{1}},
		{"GPTQ without groups", `{"quant_method": "gptq", "bits": 4, "group_size": -1}`, tensor{"model.layers.0.mlp.down_proj.qweight", "I32", []uint64{384 / 8, 1024}}, []int{1, 2, 4, 8}},
		{"AWQ's groups", `{"quant_method": "awq", "bits": 4, "group_size": 64}`, tensor{"model.layers.0.mlp.down_proj.qweight", "I32", []uint64{256, 128}}, []int{1, 2, 4}},
		{"AWQ's packing", `{"quant_method": "awq", "bits": 4, "group_size": 64}`, tensor{"model.layers.0.mlp.up_proj.qweight", "I32", []uint64{1024, 4}}, []int{1, 2, 4}},
		{
			"compressed-tensors", `{"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}`,
			tensor{"model.layers.0.mlp.down_proj.weight_packed", "I32", []uint64{1024, 64 / 8}},
			[]int{1, 2},
		},
		{"FP8 without blocks", `{"quant_method": "fp8"}`, tensor{"model.layers.0.mlp.down_proj.weight", "F8_E4M3", []uint64{1024, 100}}, []int{1, 2, 4, 8}},
		{
			"FP8 of experts on one GPU", `{"quant_method": "fp8", "weight_block_size": [128, 128]}`,
			tensor{"model.layers.0.mlp.experts.0.up_proj.weight", "F8_E4M3", []uint64{192, 1024}},
			nil,
		},
	} {
		m := read(t, newModel(config+tt.quantization+"}").with(t, "model.safetensors", tt.tensor))
		var able []int
		for _, tp := range []int{1, 2, 4, 8} {
			if m.refusal(tp) == "" {
				able = append(able, tp)
			}
		}
		if len(able) != len(tt.able) {
			t.Errorf("%s: starts on %v GPUs; want %v", tt.name, able, tt.able)
		}
	}
}

// TestWeightsAsHeld: what vLLM makes of the files' weights.
func TestWeightsAsHeld(t *testing.T) {
	for _, tt := range []struct {
		model string
		tp    int
		gib   float64 // as vLLM logged it
	}{
		{"llama4-scout", 4, 53.12}, // the table of 10 million rotary positions
		{"gemma3-4b", 1, 8.58},     // and of 8 times 131072
		{"gpt-oss-20b", 1, 13.64},  // padded experts
		{"gpt-oss-20b", 2, 7.01},
		{"deepseek-v2-lite", 1, 29.43}, // MLA's up projection twice
	} {
		n := need(t, shape(t, tt.model), Serving{TensorParallel: tt.tp})
		got := float64(n.WeightsBytes+n.ReplicatedBytes) / (1 << 30)
		if math.Abs(got/tt.gib-1) > 0.005 {
			t.Errorf("%s on %d GPUs: %.2f GiB; vLLM logged %.2f", tt.model, tt.tp, got, tt.gib)
		}
	}
}

// TestRotaryTables: rows by the kinds of scaling.
func TestRotaryTables(t *testing.T) {
	const head = `{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 1024, "num_attention_heads": 16, "max_position_embeddings": 8192`
	for _, tt := range []struct {
		config string
		rows   uint64
	}{
		{head + "}", 8192},
		{head + `, "rope_scaling": {"rope_type": "llama3", "factor": 8}}`, 8192},
		{head + `, "rope_scaling": {"type": "linear", "factor": 4}}`, 4 * 8192},
		{head + `, "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}}`, 4 * 4096},
		{head + `, "original_max_position_embeddings": 4096, "rope_scaling": {"rope_type": "longrope"}}`, 8192 + 4096},
		{head + `, "partial_rotary_factor": 0.5}`, 8192 / 2},
		{head + `, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}`, 8192 / 4},
		{`{"model_type": "gpt2"}`, 0},
		{`{"model_type": "falcon_mamba"}`, 0},
	} {
		if got := read(t, tiny(t, tt.config)).Architecture.RotaryBytes; got != tt.rows*64*2 {
			t.Errorf("%s: %d bytes; want %d rows", tt.config, got, tt.rows)
		}
	}
}
