package sizing

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vllmSource is a file of the default release of vLLM; the test is skipped where its source is not there.
func vllmSource(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("STOKER_TEST_VLLM")
	if dir == "" {
		t.Skip("STOKER_TEST_VLLM is not set: the source of vLLM is not read; make clients fetches it")
	}
	data, err := os.ReadFile(filepath.Join(dir, "vllm", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// literal is the strings that a type of vLLM allows.
func literal(t *testing.T, source, name string) []string {
	t.Helper()
	body := regexp.MustCompile(`(?s)\n` + name + ` = Literal\[(.*?)\n\]`).FindStringSubmatch(source)
	if body == nil {
		t.Fatalf("vLLM has no %s", name)
	}
	var words []string
	for _, m := range regexp.MustCompile(`(?m)^\s+"([^"]+)",`).FindAllStringSubmatch(body[1], -1) {
		words = append(words, m[1])
	}
	slices.Sort(words)
	return words
}

// TestKVCacheDtypesOfVLLM: the table has every type that vLLM takes, and no other.
func TestKVCacheDtypesOfVLLM(t *testing.T) {
	have := KVCacheDtypes()
	if diff := cmp.Diff(literal(t, vllmSource(t, "config/cache.py"), "CacheDType"), slices.Sorted(slices.Values(have))); diff != "" {
		t.Errorf("(-vLLM +here)\n%s", diff)
	}
}

// TestKVCacheSizesOfVLLM: the widths are those of vLLM's own layouts.
func TestKVCacheSizesOfVLLM(t *testing.T) {
	for name, patterns := range map[string][]string{
		"model_executor/layers/attention/mla_attention.py": {`state_content_bytes=\{"fp8_ds_mla": 656, "nvfp4_ds_mla": 352\}`},
		"utils/torch_utils.py":                             {`return head_size // 2 \+ head_size // 16`, `"fp8_inc": torch\.float8_e4m3fn`, `"int8_per_token_head": torch\.int8`},
		"v1/attention/backends/triton_attn.py":             {`hs_k, hs_v = hs_k // 2, hs_v // 2`, `content = \(hs_k \+ hs_v\) \* get_dtype_size\(spec\.dtype\) \+ 2 \* scale_bytes`},
	} {
		source := vllmSource(t, name)
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(source) {
				t.Errorf("%s has no %s", name, p)
			}
		}
	}
}

// TestQuantizationsOfVLLM: every method that is counted is one that vLLM takes.
func TestQuantizationsOfVLLM(t *testing.T) {
	known := literal(t, vllmSource(t, "model_executor/layers/quantization/__init__.py"), "QuantizationMethods")
	for _, m := range onLoadMethods() {
		if !slices.Contains(known, m.name) {
			t.Errorf("vLLM has no %s", m.name)
		}
	}
	for _, family := range quantizationFamilies() {
		for _, name := range family {
			if !slices.Contains(known, name) {
				t.Errorf("vLLM has no %s", name)
			}
		}
	}
	shorthands := vllmSource(t, "config/quantization.py")
	for _, m := range onLoadMethods() {
		whole := regexp.MustCompile(`"` + m.name + `": QuantizationConfigArgs\(\s+linear=QuantSpec\(weight=(\w+)\),\s+moe=QuantSpec\(weight=(\w+)\),`).FindStringSubmatch(shorthands)
		if m.name != "fp8" && (whole == nil || !strings.Contains(whole[1]+whole[2], "8")) {
			t.Errorf("%s is not of linear layers and experts, in 8 bits: %q", m.name, whole)
		}
	}
}

// TestKVCacheTypes: what a token takes of Llama 3.1 8B, and of DeepSeek V3's latent cache.
func TestKVCacheTypes(t *testing.T) {
	m, latent := llama8B(t), shape(t, "deepseek-r1")
	const unknown = 0
	for dtype, want := range map[string][2]uint64{ // of a layer: 8 heads of twice 128 numbers, and 576 numbers
		"auto": {4096, 1152}, "bfloat16": {4096, 1152}, "float16": {4096, 1152}, "fp8": {2048, 576}, "fp8_e5m2": {2048, 576},
		"int8_per_token_head": {2048 + 64, 576 + 8}, "int4_per_token_head": {1024 + 64, 288 + 8},
		"nvfp4": {1024 + 128, unknown}, "nvfp4_4over6": {1024 + 128, unknown},
		"fp8_ds_mla": {unknown, 656}, "nvfp4_ds_mla": {unknown, 352},
		"turboquant_k8v4": {unknown, unknown}, "octave_k3v4": {unknown, unknown}, "of_tomorrow": {unknown, unknown},
	} {
		for i, m := range []Model{m, latent} {
			plain, n := need(t, m, Serving{TensorParallel: 1}), need(t, m, Serving{KVCacheDtype: dtype})
			layers, counted := m.Architecture.Layers, want[i]
			if want[i] == unknown {
				counted = plain.KVBytesPerToken / layers
			}
			doubted := hasNote(n.Notes, "counted as auto")
			if n.KVBytesPerToken != counted*layers || doubted != (want[i] == unknown) || doubted && !n.Estimated {
				t.Errorf("%s of model %d: %d bytes a token, want %d in each of %d layers; estimated %v, %q", dtype, i, n.KVBytesPerToken, counted, layers, n.Estimated, n.Notes)
			}
		}
	}
	for name, want := range map[string]string{"": "", "auto": "", "fp8": "", "fp8_ds_mla": "", "octave_k3v4": "size", "fp9": "it has auto, bfloat16"} {
		if got := DoubtKVCacheDtype(name); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q", name, got)
		}
	}
}
