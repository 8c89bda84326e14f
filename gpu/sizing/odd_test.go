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

// TestFieldsOfFamilies: what families of models call what all have.
func TestFieldsOfFamilies(t *testing.T) {
	type found struct{ full, keys, latent, recurrent, used, width, kv, dense uint64 }
	for _, tt := range []struct {
		name, config string
		want         found
		note         string
	}{
		{
			"LongCat: two attentions a layer", // vllm/model_executor/models/longcat_flash.py
			`{"model_type": "longcat_flash", "hidden_size": 6144, "num_layers": 28, "num_attention_heads": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
			"qk_nope_head_dim": 128, "v_head_dim": 128, "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048, "n_routed_experts": 512, "moe_topk": 12}`,
			found{full: 56, latent: 576, used: 12, width: 2048, kv: 1, dense: 12288},
			"",
		},
		{
			"LongCat as transformers writes it",
			`{"model_type": "longcat_flash", "num_hidden_layers": 56, "num_layers": 28, "kv_lora_rank": 512, "qk_rope_head_dim": 64}`,
			found{full: 56, latent: 576, used: 12, width: 2048, kv: 1, dense: 12288},
			"",
		},
		{
			"Zamba 2: heads of twice the width",
			`{"model_type": "zamba2", "hidden_size": 2560, "num_attention_heads": 32, "attention_head_dim": 160, "kv_channels": 80, "num_hidden_layers": 3,
			"layers_block_type": ["mamba", "hybrid", "mamba"], "mamba_d_state": 64, "mamba_expand": 2, "mamba_d_conv": 4}`,
			found{full: 1, keys: 160, recurrent: 2 * 2560 * 64, kv: 32},
			"3 layers keep a state",
		},
		{
			"MiniMax without head_dim",
			`{"model_type": "minimax", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 2, "head_dim": null,
			"layer_types": ["full_attention", "linear_attention"], "num_experts_per_tok": 2, "intermediate_size": 14336}`,
			found{full: 1, keys: 128, recurrent: 32 * 128 * 128, used: 2, width: 14336, kv: 8, dense: 14336},
			"1 layers keep a state",
		},
		{
			"Kimi Linear as transformers writes it",
			`{"model_type": "kimi_linear", "hidden_size": 2304, "num_hidden_layers": 2, "layer_types": ["full_attention", "linear_attention"],
			"linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4, "kv_lora_rank": 512, "qk_rope_head_dim": 64}`,
			found{full: 1, latent: 576, recurrent: 32 * 128 * 128, used: 8, width: 1024, kv: 1, dense: 9216},
			"1 layers keep a state",
		},
		{
			"ERNIE",
			`{"model_type": "ernie4_5_moe", "hidden_size": 2560, "num_hidden_layers": 28, "num_attention_heads": 20, "num_key_value_heads": 4, "moe_k": 6,
			"moe_num_experts": 64, "moe_intermediate_size": 1536}`,
			found{full: 28, keys: 128, used: 6, width: 1536, kv: 4, dense: 12288},
			"",
		},
		{
			"Hunyuan, by layer",
			`{"model_type": "hunyuan_v1_moe", "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32, "num_experts": 64,
			"moe_topk": [8, 8], "moe_intermediate_size": [3072, 3072]}`,
			found{full: 2, keys: 128, used: 8, width: 3072, kv: 32, dense: 11008},
			"",
		},
		{
			"DBRX, nested",
			`{"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "attn_config": {"kv_n_heads": 8},
			"ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}}`,
			found{full: 40, keys: 128, used: 4, width: 10752, kv: 8, dense: 10752},
			"",
		},
		{
			"Nemotron Super: blocks without attention",
			`{"model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 3, "num_attention_heads": 64, "num_key_value_heads": null, "block_configs": [
			{"attention": {"n_heads_in_group": 8, "no_op": false}, "ffn": {"ffn_mult": 5.25}},
			{"attention": {"n_heads_in_group": null, "no_op": true}, "ffn": {"ffn_mult": 2.625}},
			{"attention": {"n_heads_in_group": 8, "no_op": false}, "ffn": {"ffn_mult": null, "no_op": true}}]}`,
			found{full: 2, keys: 128, kv: 8, dense: 28672},
			"",
		},
		{
			"blocks of several kinds",
			`{"model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 64,
			"block_configs": [{"attention": {"n_heads_in_group": 8}}, {"attention": {"n_heads_in_group": 16}}]}`,
			found{full: 2, keys: 128, kv: 8},
			"layers have 4 to 8 KV heads",
		},
		{
			"blocks of another kind",
			`{"model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 64, "block_configs": [{"block_type": "moe"}]}`,
			found{full: 2, keys: 128, kv: 64},
			"layers differ in shape",
		},
		{
			"Nemotron Nano: no experts",
			`{"model_type": "nemotron_h", "hidden_size": 4480, "intermediate_size": 15680, "num_hidden_layers": 4, "num_attention_heads": 40, "num_key_value_heads": 8,
			"head_dim": 128, "hybrid_override_pattern": "M-*-", "mamba_num_heads": 128, "mamba_head_dim": 80, "ssm_state_size": 128}`,
			found{full: 1, keys: 128, recurrent: 128 * 80 * 128, kv: 8, dense: 15680},
			"1 layers keep a state",
		},
		{
			"Falcon: a width that goes without saying",
			`{"model_type": "falcon", "hidden_size": 14848, "num_hidden_layers": 80, "num_attention_heads": 232, "num_kv_heads": 8, "new_decoder_architecture": true}`,
			found{full: 80, keys: 64, kv: 8, dense: 4 * 14848},
			"",
		},
		{
			"OPT",
			`{"model_type": "opt", "hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096}`,
			found{full: 24, keys: 32, kv: 16, dense: 4096},
			"",
		},
		{
			"experts by another name",
			`{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_experts": 16, "experts_at_once": 2}`,
			found{full: 2, keys: 16, kv: 4, dense: 11008},
			"how many of its 16 experts a token goes through",
		},
	} {
		a := read(t, tiny(t, tt.config)).Architecture
		if got := (found{a.FullLayers, a.KeyHeadDim, a.LatentDim, a.State.Recurrent, a.ExpertsPerToken, a.ExpertIntermediate, a.KVHeads, a.DenseIntermediate}); got != tt.want {
			t.Errorf("%s: %+v; want %+v", tt.name, got, tt.want)
		}
		if tt.note != "" && !hasNote(a.Notes, tt.note) || tt.note == "" && slices.ContainsFunc(a.Notes, func(n string) bool { return strings.Contains(n, "experts") || strings.Contains(n, "blocks") }) {
			t.Errorf("%s: notes %q; want %q", tt.name, a.Notes, tt.note)
		}
	}
}

// TestAliasesOfVLLM: each name that vLLM knows for these numbers is known here.
func TestAliasesOfVLLM(t *testing.T) {
	root := os.Getenv("STOKER_TEST_VLLM")
	if root == "" {
		t.Skip("STOKER_TEST_VLLM is not set: vLLM's source is not read; make clients fetches it")
	}
	source, err := os.ReadFile(filepath.Join(root, "vllm/transformers_utils/config.py"))
	if err != nil {
		t.Fatal(err)
	}
	_, aliases, found := strings.Cut(string(source), "CONFIG_FIELD_ALIASES: dict")
	aliases, _, ended := strings.Cut(aliases, "\n}")
	if !found || !ended {
		t.Fatal("vLLM's source has no CONFIG_FIELD_ALIASES")
	}
	const base = `{"model_type": "strange", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, `
	for _, number := range []struct {
		name, rest string
		read       func(Architecture) bool
	}{
		{"total_num_kv_heads", "}", func(a Architecture) bool { return a.KVHeads == 2 }},
		{"num_experts", "}", func(a Architecture) bool { return hasNote(a.Notes, "of its 2 experts") }},
		{"num_experts_per_token", "}", func(a Architecture) bool { return a.ExpertsPerToken == 2 }},
		{"moe_intermediate_size", `, "num_experts_per_tok": 1}`, func(a Architecture) bool { return a.ExpertIntermediate == 2 }},
	} {
		_, list, _ := strings.Cut(aliases, `"`+number.name+`": (`)
		list, _, _ = strings.Cut(list, "\n    )")
		names := regexp.MustCompile(`(?m)^ *"(\w+)",`).FindAllStringSubmatch(list, -1)
		if len(names) < 2 {
			t.Errorf("vLLM has %d names of %s", len(names), number.name)
		}
		for _, name := range names {
			if name[1] == "top_k" { // which is the sampler's, too
				continue
			}
			if a := read(t, tiny(t, base+`"`+name[1]+`": 2`+number.rest)).Architecture; !number.read(a) {
				t.Errorf("%s of vLLM's %s is not read: %+v", name[1], number.name, a)
			}
		}
	}
}

// TestRefusedQuantizations: what a release does not load is an estimate with a reason.
func TestRefusedQuantizations(t *testing.T) {
	const order = "ordered by activation"
	for _, tt := range []struct {
		quantization string
		want         map[string]string // by version
	}{
		{`{"quant_method": "exl2"}`, map[string]string{"0.19": `"exl2" is none that vLLM 0.19 has`, "0.33": `"exl2" is none that vLLM 0.33 has`}},
		{`{"quant_method": "bitsandbytes", "load_in_4bit": true}`, map[string]string{"0.27": "", "0.28": `"bitsandbytes" is none`}},
		{`{"quant_method": "gguf"}`, map[string]string{"0.23": "", "0.24": `"gguf" is none`}},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}`, map[string]string{"0.29": "", "0.30": order}},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false}`, map[string]string{"0.33": ""}},
		{`{"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": true}`, map[string]string{"0.33": ""}},
		{`{"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4, "actorder": "group"}}}}`, map[string]string{"0.29": "", "0.33": order}},
		{`{"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4, "actorder": "static"}}}}`, map[string]string{"0.33": ""}},
		{`{"quant_method": "AWQ", "bits": 4, "group_size": 32}`, map[string]string{"0.19": "", "0.33": ""}},
		{`{"quant_algo": "NVFP4"}`, map[string]string{"0.33": ""}},
	} {
		m := read(t, newModel(oddConfig+`, "quantization_config": `+tt.quantization+"}").with(t, "model.safetensors", w("a", "BF16", 64, 64)))
		for version, want := range tt.want {
			n := need(t, m, Serving{VLLMVersion: version})
			if n.Estimated != (want != "") || want != "" && !hasNote(n.Notes, want) {
				t.Errorf("%s by %s: estimated: %v; notes %q; want %q", tt.quantization, version, n.Estimated, n.Notes, want)
			}
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
