package sizing

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// mistralConfigs are params.json of models that are out there, or what differs among
// them, and config.json where it matters.
func mistralConfigs() map[string][2]string {
	return map[string][2]string{
		"Mistral 7B v0.3": {
			`{"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8, "norm_eps": 1e-05, "vocab_size": 32768, "rope_theta": 1000000.0, "max_position_embeddings": 32768}`, "",
		},
		"Ministral 3": {
			`{
			"dim": 4096, "n_layers": 34, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 131072,
			"rope_theta": 1000000.0, "tied_embeddings": true, "max_position_embeddings": 262144, "dtype": "bfloat16",
			"llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
			"yarn": {"original_max_position_embeddings": 16384, "factor": 16, "apply_scale": false, "beta": 32, "alpha": 1},
			"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}`, "",
		},
		"Mistral Large 3": {
			`{
			"dim": 7168, "n_layers": 61, "head_dim": 128, "hidden_dim": 16384, "n_heads": 128, "n_kv_heads": 128, "vocab_size": 131072,
			"max_position_embeddings": 294912, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "kv_lora_rank": 512, "v_head_dim": 128,
			"llama_4_scaling": {"original_max_position_embeddings": 8192, "beta": 0.1},
			"yarn": {"original_max_position_embeddings": 8192, "factor": 36, "beta": 32, "alpha": 1},
			"moe": {"num_experts": 128, "num_experts_per_tok": 4, "expert_hidden_dim": 4096, "first_k_dense_replace": 3, "route_every_n": 1,
				"num_shared_experts": 1, "routed_scale": 1.0, "num_expert_groups": 1, "num_expert_groups_per_tok": 1},
			"quantization": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}}`, "",
		},
		"Mixtral": {
			`{"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768, "moe": {"num_experts_per_tok": 2, "num_experts": 8}}`,
			`{"num_experts_per_tok": 2, "num_local_experts": 8}`,
		},
		"a window": {
			`{"dim": 4096, "n_layers": 32, "head_dim": 128, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 32000, "sliding_window": 4096, "max_position_embeddings": 32768}`, "",
		},
		"a window in three of four layers": {
			`{"dim": 4096, "n_layers": 36, "head_dim": 128, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 131072, "sliding_window": [null, 32768, 32768, 32768], "max_position_embeddings": 131072}`, "",
		},
		"config.json has the rest": {
			`{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "max_position_embeddings": 1000, "dtype": "float16"}`,
			`{"vocab_size": 5, "num_hidden_layers": 7, "head_dim": 128, "quantization_config": {"quant_method": "awq", "bits": 4}, "tie_word_embeddings": true}`,
		},
	}
}

func mistralModel(tb testing.TB, params, config string) model {
	tb.Helper()
	m := newModel(config).file("params.json", params).with(tb, "consolidated.safetensors", tensor{"layers.0.attention.wk.weight", "BF16", []uint64{4, 4}})
	if config == "" {
		delete(m.MapFS, "config.json")
	}
	return m
}

// params.json means here what it means to vLLM.
func TestMistralConfigAgainstVLLM(t *testing.T) {
	source, python := os.Getenv("STOKER_TEST_VLLM"), os.Getenv("STOKER_TEST_PYTHON")
	if source == "" || python == "" {
		t.Skip("STOKER_TEST_VLLM or STOKER_TEST_PYTHON is not set: params.json is not held against vLLM's code; `make test` fetches it")
	}
	type question struct {
		Params   json.RawMessage `json:"params"`
		Defaults json.RawMessage `json:"defaults"`
	}
	var names []string
	var questions []question
	for name, c := range mistralConfigs() {
		if c[1] == "" {
			c[1] = "{}"
		}
		names, questions = append(names, name), append(questions, question{json.RawMessage(c[0]), json.RawMessage(c[1])})
	}
	input, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/mistral.py", source)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1"}
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var configs []json.RawMessage
	if err := json.Unmarshal(output, &configs); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			c := mistralConfigs()[name]
			got := read(t, mistralModel(t, c[0], c[1])).Architecture
			want := read(t, newModel(string(configs[i])).with(t, "model.safetensors", tensor{"x", "BF16", []uint64{1}})).Architecture
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Architecture{}, quantizedBlocks{}), cmpopts.IgnoreFields(Architecture{}, "ModelType", "Estimated", "Notes")); diff != "" {
				t.Errorf("differs from what vLLM makes of it (-want +got):\n%s", diff)
			}
		})
	}
}

// What a model in Mistral's format needs.
func TestMistralFormat(t *testing.T) {
	configs := mistralConfigs()
	for name, want := range map[string]struct {
		perToken, perWindowToken uint64
		modelType                string
		longest                  int64
	}{
		"Mistral 7B v0.3":                  {131_072, 0, "mistral", 32_768},
		"Ministral 3":                      {139_264, 0, "mistral", 262_144},
		"Mistral Large 3":                  {70_272, 0, "deepseek_v3", 294_912},
		"Mixtral":                          {131_072, 0, "mixtral", 32_768},
		"a window":                         {0, 131_072, "mistral", 32_768},
		"a window in three of four layers": {36_864, 110_592, "mistral", 131_072},
		"config.json has the rest":         {131_072, 0, "mistral", 1000},
	} {
		t.Run(name, func(t *testing.T) {
			m := read(t, mistralModel(t, configs[name][0], configs[name][1]))
			n := need(t, m, Serving{})
			if n.KVBytesPerToken != want.perToken || n.KVWindowBytesPerToken != want.perWindowToken || n.MaxModelLen != want.longest {
				t.Errorf("%d and %d bytes a token, %d tokens; want %+v", n.KVBytesPerToken, n.KVWindowBytesPerToken, n.MaxModelLen, want)
			}
			if m.Architecture.ModelType != want.modelType || n.Estimated {
				t.Errorf("model type %q, estimated %v (%q)", m.Architecture.ModelType, n.Estimated, n.Notes)
			}
		})
	}
}

// Which configuration counts, and what is wrong with it.
func TestMistralConfigFile(t *testing.T) {
	const params, config = `{"dim": 8, "n_layers": 2, "n_heads": 2, "head_dim": 4, "vocab_size": 7}`, `{"model_type": "llama", "num_hidden_layers": 9, "max_position_embeddings": 77}`
	both := mistralModel(t, params, config)
	if a := read(t, both).Architecture; a.Layers != 2 || a.MaxModelLen != 77 || a.DType != "bfloat16" {
		t.Errorf("with params.json: %+v", a)
	}
	if a := read(t, newModel(`{"text_config": {"max_position_embeddings": 78}}`).file("params.json", params).with(t, "consolidated.safetensors", tensor{"x", "BF16", []uint64{1}})).Architecture; a.MaxModelLen != 78 {
		t.Errorf("the length of a nested config.json: %+v", a)
	}
	if a := read(t, mistralModel(t, params, "")).Architecture; a.MaxModelLen != mistralLength {
		t.Errorf("without config.json: %+v", a)
	}
	delete(both.MapFS, "params.json")
	if a := read(t, both).Architecture; a.Layers != 9 {
		t.Errorf("without params.json: %+v", a)
	}
	others := newModel(config).file("params.json", params).with(t, "model.safetensors", tensor{"x", "BF16", []uint64{1}})
	if a := read(t, others).Architecture; a.Layers != 9 {
		t.Errorf("without consolidated files: %+v", a)
	}
	for _, c := range [][2]string{
		{`[]`, "read params.json"},
		{`null`, "read params.json: it is not a JSON object"},
		{`{"n_layers": 70000, "sliding_window": [1]}`, "read params.json: num_hidden_layers is 70000"},
		{`{"n_layers": "many", "sliding_window": [1]}`, `num_hidden_layers is "many"`},
		{`{"n_layers": 2, "sliding_window": ["far"]}`, `sliding_window is ["far"]`},
		{`{"moe": 3}`, "read params.json: moe is 3"},
		{`{"yarn": "far"}`, `read params.json: yarn is "far"`},
		{`{"quantization": [1]}`, "read params.json: quantization is [1]"},
		{`{"quantization": {"qformat_weight": 8}}`, "qformat_weight is 8"},
		{`{"max_position_embeddings": "long"}`, `max_position_embeddings is "long"`},
	} {
		_, err := ReadModel(mistralModel(t, c[0], ""))
		wantError(t, c[0], err, c[1])
	}
}

// The tensors' names in Mistral's format mean what transformers' mean.
func TestMistralTensors(t *testing.T) {
	w := func(name string) tensor { return tensor{name, "BF16", []uint64{4, 8}} }
	const params = `{"dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "vocab_size": 7, "tied_embeddings": true}`
	m := mistralModel(t, params, "").with(t, "consolidated.safetensors",
		w("tok_embeddings.weight"), w("output.weight"), tensor{"norm.weight", "BF16", []uint64{8}},
		w("layers.0.attention.wq.weight"), w("layers.0.attention.wk.weight"), w("layers.0.attention.wv.weight"), w("layers.0.attention.wo.weight"),
		w("layers.0.attention.wkv_a_with_mqa.weight"), w("layers.0.attention.wq_a.weight"), tensor{"layers.0.ffn_norm.weight", "BF16", []uint64{8}},
		w("layers.0.feed_forward.w1.weight"), w("layers.0.gate.weight"), w("layers.0.feed_forward.gate.weight"),
	)
	const one, norm = 64, 16
	got := read(t, m).Weights
	if got.KVProjectionBytes != 2*one || got.ReplicatedBytes != 4*one+2*norm || got.Bytes != 11*one+2*norm || got.LoadedBytes != 10*one+2*norm {
		t.Errorf("got %+v", got)
	}
}
