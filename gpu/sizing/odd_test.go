package sizing

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestOddConfigs: config.json as it is found, and what the answer says of it.
func TestOddConfigs(t *testing.T) {
	bf16, f16, f32 := w("a", "BF16", 64, 64), w("a", "F16", 64, 64), w("a", "F32", 64, 64)
	packed := w("model.layers.0.mlp.up_proj.weight_packed", "I32", 64, 8)
	for _, tt := range []struct {
		name, config string
		tensors      []tensor
		dtype        string
		length       int64
		note         string // "": it is exact
	}{
		{"a type", `, "torch_dtype": "float16"`, []tensor{bf16}, "float16", 4096, ""},
		{"the weights' type", ``, []tensor{bf16}, "bfloat16", 4096, ""},
		{"the weights' other type", ``, []tensor{f16}, "float16", 4096, ""},
		{"null for a type", `, "torch_dtype": null, "head_dim": null, "rope_scaling": null, "quantization_config": null`, []tensor{f16}, "float16", 4096, ""},
		{"auto", `, "dtype": "auto"`, []tensor{f16}, "float16", 4096, ""},
		{"halves and whole ones", ``, []tensor{f16, w("b", "F32", 64)}, "bfloat16", 4096, ""},
		{"float32 that generates", `, "torch_dtype": "float32"`, []tensor{f32}, "bfloat16", 4096, ""},
		{"float32 that is pooled", `, "torch_dtype": "float32", "architectures": ["BertModel"]`, []tensor{f32}, "float16", 4096, ""},
		{"no bound for a length", `, "model_max_length": 1000000000000000019884624838656`, []tensor{bf16}, "bfloat16", 4096, ""},
		{"a length in quotes", `, "n_positions": "4096"`, []tensor{bf16}, "bfloat16", 4096, `n_positions is "4096"; want a whole number`},
		{"too many layers", `, "num_hidden_layers": 1e30`, []tensor{bf16}, "bfloat16", 4096, "num_hidden_layers is 1e30; want at most 1099511627776"},
		{"no model_type", `, "model_type": null`, []tensor{bf16}, "bfloat16", 4096, "config.json names no model_type"},
		{"a method of others", `, "quantization_config": {"quant_method": "exl2"}`, []tensor{bf16}, "bfloat16", 4096, `quant_method "exl2" is none that vLLM 0.33 has`},
		{"a method", `, "quantization_config": {"quant_method": "AWQ", "bits": 4, "group_size": 32}`, []tensor{bf16}, "bfloat16", 4096, ""},
		{"an algorithm", `, "quantization_config": {"quant_algo": "NVFP4"}`, []tensor{bf16}, "bfloat16", 4096, ""},
	} {
		m := read(t, newModel(oddConfig+tt.config+"}").with(t, "model.safetensors", tt.tensors...))
		a := m.Architecture
		if a.DType != tt.dtype || a.KVCacheDType != tt.dtype || a.MaxModelLen != tt.length {
			t.Errorf("%s: %s, its cache %s, %d tokens; want %s and %d", tt.name, a.DType, a.KVCacheDType, a.MaxModelLen, tt.dtype, tt.length)
		}
		if a.Estimated != (tt.note != "") || tt.note != "" && !hasNote(a.Notes, tt.note) {
			t.Errorf("%s: estimated: %v; notes %q; want %q", tt.name, a.Estimated, a.Notes, tt.note)
		}
	}
	// An older name of the same field.
	const groups = `{"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}`
	for _, field := range []string{"quantization_config", "compression_config"} {
		m := read(t, newModel(oddConfig+`, "`+field+`": `+groups+"}").with(t, "model.safetensors", packed))
		if m.Weights.Parameters != 64*64 || m.Architecture.Quantization != "compressed-tensors" {
			t.Errorf("%s: %d parameters, %q", field, m.Weights.Parameters, m.Architecture.Quantization)
		}
	}
}

// TestQuantMethodsOfVLLM holds the list against vLLM's own.
func TestQuantMethodsOfVLLM(t *testing.T) {
	root := os.Getenv("STOKER_TEST_VLLM")
	if root == "" {
		t.Skip("STOKER_TEST_VLLM is not set: vLLM's source is not read; make clients fetches it")
	}
	source, err := os.ReadFile(filepath.Join(root, "vllm/model_executor/layers/quantization/__init__.py"))
	if err != nil {
		t.Fatal(err)
	}
	list, _, _ := strings.Cut(string(source), "# Below are online") // arguments, which no file names
	_, list, found := strings.Cut(list, "QuantizationMethods = Literal[")
	names := regexp.MustCompile(`"([a-z0-9_-]+)"`).FindAllStringSubmatch(list, -1)
	if !found || len(names) < 20 {
		t.Fatalf("%d methods", len(names))
	}
	var theirs []string
	for _, name := range names {
		theirs = append(theirs, name[1])
		if name[1] != "online" && !slices.Contains(quantMethods(), name[1]) {
			t.Errorf("vLLM has %q; quantMethods has not", name[1])
		}
	}
	for _, name := range quantMethods() {
		if !slices.Contains(theirs, name) && name != "auto-round" && name != "mxfp8" { // which inc and modelopt_mxfp8 stand in for
			t.Errorf("quantMethods has %q; vLLM has not", name)
		}
	}
}
