package charts

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// tinyModel writes a model that can be sized: two layers, 64 wide, in bfloat16.
func tinyModel(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "Tiny")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	config := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "torch_dtype": "bfloat16",
		"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
		"max_position_embeddings": 2048, "vocab_size": 128,
	}
	header := map[string]any{"model.embed_tokens.weight": map[string]any{"dtype": "BF16", "shape": []int{128, 64}, "data_offsets": []int{0, 16384}}}
	var weights bytes.Buffer
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	if err := binary.Write(&weights, binary.LittleEndian, uint64(len(text))); err != nil {
		t.Fatal(err)
	}
	weights.Write(text)
	weights.Write(make([]byte, 16384))
	described, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"config.json": described, "model.safetensors": weights.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The init containers run as they are rendered, one after the other, on a store
// that holds the model: the first pins it, the second passes what fits and
// refuses what does not, in a sentence.
func TestVLLMFitCheck(t *testing.T) {
	binary := buildBinary(t)
	store, pin := filepath.Join(t.TempDir(), "store"), t.TempDir()
	for _, name := range []string{"tiny", "tiny-sql"} { // the second stands for an adapter
		out, err := exec.CommandContext(t.Context(), binary, "pull", "file://"+tinyModel(t), "--name="+name, "--store="+store, "--progress=none").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	inside := strings.NewReplacer("--store=/models", "--store="+store, "--pin=/stoker", "--pin="+pin, "/stoker/model", filepath.Join(pin, "model"))
	run := func(c corev1.Container, further ...string) (string, int) {
		t.Helper()
		moved := append([]string{c.Args[0]}, further...)
		for _, arg := range c.Args[1:] {
			moved = append(moved, inside.Replace(arg))
		}
		cmd := exec.CommandContext(t.Context(), binary, moved...)
		for _, e := range c.Env {
			cmd.Env = append(cmd.Environ(), e.Name+"="+e.Value)
		}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if exit != nil {
			return string(out), exit.ExitCode()
		}
		return string(out), 0
	}
	const model = "model: {name: tiny}\nstoker: {inject: chart}\n"
	for name, tc := range map[string]struct {
		values, gpus string
		code         int
		says         string
	}{
		"it fits":                  {"", "simulated:dgxa100", 0, "It fits"},
		"no driver is there":       {"", "none", 0, "No GPU was compared"},
		"the share is too small":   {"vllm: {gpuMemoryUtilization: 0.00001, maxModelLen: 2048}", "simulated:dgxa100", 2, "raise --gpu-memory-utilization"},
		"it is tight":              {"vllm: {gpuMemoryUtilization: 0.02, maxModelLen: 2048}", "simulated:dgxa100", 0, "it is tight: "},
		"the memory is held":       {"", "simulated:dgxa100,free=1GiB", 1, "find what holds the memory"},
		"longer than the model":    {"vllm: {maxModelLen: 1000000}", "simulated:dgxa100", 2, "is beyond the model's own"},
		"longer, as vLLM is told":  {"vllm: {maxModelLen: 1000000, extraEnv: [{name: VLLM_ALLOW_LONG_MAX_MODEL_LEN, value: '1'}]}", "simulated:dgxa100", 0, "It fits"},
		"longer by another RoPE":   {"vllm: {maxModelLen: 1000000, extraArgs: ['--hf-overrides={}']}", "simulated:dgxa100", 0, "It fits"},
		"heads cannot be divided":  {"vllm: {tensorParallel: 3}", "simulated:dgxa100", 2, "does not divide"},
		"further arguments count":  {"vllm: {extraArgs: [--max-num-seqs, '256', --max-num-batched-tokens=128]}", "simulated:dgxa100", 2, "128 tokens"},
		"what is not understood":   {"vllm: {extraArgs: [--option-of-tomorrow, --enable-lora]}", "simulated:dgxa100,free=1GiB", 0, "not counted: --option-of-tomorrow, --enable-lora;"},
		"adapters are not counted": {"lora: {adapters: [tiny-sql]}", "simulated:dgxa100,free=1GiB", 0, "not counted: --enable-lora"},
		"what changes no memory":   {"vllm: {extraArgs: [--enable-prefix-caching, --seed=1]}", "simulated:dgxa100,free=1GiB", 1, "find what holds the memory"},
		"a type of tomorrow":       {"vllm: {kvCacheDtype: fp3}", "simulated:dgxa100,free=1GiB", 0, "no KV cache of type"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := vllmDeployment(t, vllmObjects(t, model+tc.values)).Spec.Template.Spec
			if out, code := run(pod.InitContainers[0]); code != 0 {
				t.Fatalf("stoker-wait ended with %d: %s", code, out)
			}
			out, code := run(pod.InitContainers[1], "--gpus="+tc.gpus)
			if code != tc.code || !strings.Contains(out, tc.says) {
				t.Errorf("stoker-fit ended with %d, want %d and %q:\n%s", code, tc.code, tc.says, out)
			}
		})
	}
}
