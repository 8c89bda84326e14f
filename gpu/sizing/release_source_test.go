package sizing

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRulesOfReleases holds what release.go says of each release against its source: make clients fetches the default one
// from PyPI, make fit-rules others. A rule is there from a release on, or until one; a new release in which it moved fails here by the rule's name.
func TestRulesOfReleases(t *testing.T) {
	dir := os.Getenv("STOKER_TEST_VLLM_RELEASES")
	if dir == "" {
		t.Skip("STOKER_TEST_VLLM_RELEASES is not set: the sources of vLLM are not read; make clients fetches one")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, e := range entries {
		r, err := parseRelease(e.Name())
		if err != nil {
			continue // what a run left that was interrupted
		}
		read++
		for _, rule := range rulesInSource() {
			if want := rule.holds(r); rule.found(t, filepath.Join(dir, e.Name(), "vllm")) != want {
				t.Errorf("vLLM %s: %s: the source has it: %v; release.go has it: %v", e.Name(), rule.what, !want, want)
			}
		}
	}
	if read == 0 {
		t.Errorf("%s holds no release of vLLM", dir)
	}
}

// sourceRule is what a rule looks like in vLLM's source.
type sourceRule struct {
	what    string
	files   []string // one of them has it, for files are moved and split
	pattern string
	holds   func(release) bool
}

func (s sourceRule) found(tb testing.TB, root string) bool {
	tb.Helper()
	pattern := regexp.MustCompile(s.pattern)
	for _, name := range s.files {
		data, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		if pattern.Match(data) {
			return true
		}
	}
	return false
}

func rulesInSource() []sourceRule {
	always := func(release) bool { return true }
	args, model, cacheUtils := []string{"engine/arg_utils.py"}, []string{"config/model.py"}, []string{"v1/core/kv_cache_utils.py", "v1/core/kv_cache_planning.py"}
	quantization := []string{"model_executor/layers/quantization/__init__.py"}
	mxfp4, rope := []string{"model_executor/layers/fused_moe/oracle/mxfp4.py"}, "model_executor/layers/rotary_embedding/"
	return []sourceRule{
		{"0.92 of the memory", []string{"config/cache.py"}, `gpu_memory_utilization: float = Field\(default=0\.92,`, func(r release) bool { return r.utilization() == 0.92 }},
		{"0.9 of the memory", []string{"config/cache.py"}, `gpu_memory_utilization: float = Field\(default=0\.9,`, func(r release) bool { return r.utilization() == 0.9 }},
		{"CUDA graphs in the budget", []string{"envs.py"}, `"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "1"`, release.graphsInBudget},
		{"the null block", cacheUtils, `Reserve the null block BlockPool permanently holds back, so the check`, release.reservesNullBlock},
		{"two batches in flight", []string{"config/vllm.py"}, `def max_in_flight_tokens`, func(r release) bool { return r.batchesInFlight() == 2 }},
		{"prefixes of hybrids", model, `attn_type == "hybrid":\s+logger\.debug\([^)]*\)\s+return True`, release.cachesPrefixesOfHybrids},
		{"two blocks a state", []string{"v1/kv_cache_interface.py"}, `mamba_cache_mode == "align":\s+return self\.page_size_bytes \* \(\s*2 \+ self\.num_speculative_blocks`, always},
		{"a scaled YaRN", model, `if rope_type == "yarn":\s+derived_max_model_len = rp\["original_max_position_embeddings"\]`, release.scalesYaRN},
		{"no length beyond the model's own", model, `elif max_model_len > derived_max_model_len:`, always},
		{"a length that overrules the others", []string{"transformers_utils/model_arch_config_convertor.py"}, `(?s)getattr\(self\.hf_text_config, "model_max_length", None\):.{0,100}derived_max_model_len = tmp_max_len`, always},
		{"LongRoPE's original length", model, `(?s)"longrope".{0,300}"original_max_position_embeddings", derived_max_model_len`, always},
		{"batches from 70 GiB on", args, `device_memory >= 70 \* GiB_bytes`, always},
		{"batches of A100", args, `"a100" not in device_name`, always},
		{"batches from 160 GiB on", args, `device_memory >= 160 \* GiB_bytes`, func(r release) bool { return r.batch(160<<30, "").tokens == 16384 }},
		{"batches of GB10", args, `is_gb10`, func(r release) bool { return r.batch(120<<30, "NVIDIA GB10").tokens == 2048 }},
		{"the newer sampler", []string{"config/vllm.py"}, `def use_v2_model_runner`, func(r release) bool { return r.leastLogitBytes() == 6 }},
		{"groups below a ratio of 1.5", cacheUtils, `max_num_layers < min_num_layers \* 1\.5`, always},
		{"a window less one", []string{"v1/kv_cache_interface.py"}, `self\.sliding_window - 1 \+`, always},
		{"MXFP4's tiles", mxfp4, `(?s)MARLIN, Mxfp4MoeBackend\.BATCHED_MARLIN\):\s+intermediate_size = round_up\(intermediate_size, 128\).{0,150}hidden_size = round_up\(hidden_size, 256\)`, always},
		{"the vocabulary's padding", []string{"model_executor/layers/vocab_parallel_embedding.py"}, `DEFAULT_VOCAB_PADDING_SIZE = 64`, always},
		{"blocks of FP8", []string{"model_executor/layers/quantization/utils/fp8_utils.py"}, `weight quantization block_n = `, always},
		{"a block for each request", []string{"config/compilation.py"}, `and max_num_reqs > kv_cache_config\.num_blocks\s+\):\s+raise ValueError`, release.needsBlockForEachRequest},
		{"stages of a pipeline", []string{"distributed/utils.py"}, `for i in range\(2, remaining_layers \+ 2\):\s+partitions\[-i\] \+= 1`, always},
		{"batches of a pipeline", []string{"config/vllm.py"}, `if self\.use_v2_model_runner:\s+return pp_size \+ 1`, func(r release) bool { return r.batchesInFlight() == 2 }},
		{"a token for each request", []string{"config/scheduler.py"}, `if self\.max_num_batched_tokens < self\.max_num_seqs:\s+raise ValueError`, always},
		{"whole prompts", []string{"config/scheduler.py"}, `self\.max_num_batched_tokens < max_model_len\s+and not self\.enable_chunked_prefill\s+\):\s+raise ValueError`, always},
		{"no more tokens than requests have", args, `self\.max_num_seqs \* model_config\.max_model_len,\s+self\.max_num_batched_tokens,`, always},
		{"no more requests than tokens", args, `self\.max_num_seqs = min\(self\.max_num_seqs, self\.max_num_batched_tokens\)`, always},
		{"graphs of up to 512 tokens", []string{"config/vllm.py"}, `max_num_seqs \* decode_query_len \* 2, default_max_graph_size|self\.scheduler_config\.max_num_seqs \* decode_query_len \* 2, 512`, always},
		{"the last stage's sampler", []string{"v1/worker/gpu/model_runner.py", "v1/worker/gpu_model_runner.py"}, `(?s)is_last_(?:pp_)?rank:.{0,500}_dummy_sampler_run`, always},
		{"offloaded layers", []string{"model_executor/models/utils.py"}, `get_offloader\(\)\.wrap_modules\(|maybe_offload_to_cpu\(`, always},
		{"offloading of whole matrices", []string{"model_executor/offloader/uva.py", "model_executor/models/utils.py"}, `(?i)if self\.cpu_offload_bytes >= self\.cpu_offload_max_bytes:|if _CPU_OFFLOAD_BYTES >= _CPU_OFFLOAD_MAX_BYTES:`, always},
		{"bitsandbytes", quantization, `(?m)^    "bitsandbytes",$`, func(r release) bool { return r.hasQuantMethod("bitsandbytes") }},
		{"GGUF", quantization, `(?m)^    "gguf",$`, func(r release) bool { return r.hasQuantMethod("gguf") }},
		{"no groups ordered by activation", []string{"model_executor/layers/quantization/utils/gptq_utils.py"}, `\(desc_act=True\) is no longer`, func(r release) bool { return !r.ordersGroups() }},
		{"MLA's second copy", []string{"model_executor/layers/attention/mla_attention.py"}, `self\.W_UK_T`, always},
		{"rotary tables", []string{rope + "base.py"}, `torch\.arange\(self\.max_position_embeddings, dtype=torch\.float\)`, always},
		{"the page's sample of the cache", []string{"v1/metrics/loggers.py"}, `"vllm:cache_config_info"`, always},
		{"the page's number of blocks", []string{"config/cache.py"}, `num_gpu_blocks: int \| None`, always},
		{"rotary tables, scaled", []string{rope + "linear_scaling_rope.py"}, `self\.max_position_embeddings \* scaling_factor`, always},
	}
}

// TestRulesAreNamed: each rule is of files that the doc's reader can find.
func TestRulesAreNamed(t *testing.T) {
	for _, rule := range rulesInSource() {
		if rule.what == "" || len(rule.files) == 0 || !strings.HasSuffix(rule.files[0], ".py") || regexp.MustCompile(rule.pattern).MatchString("") {
			t.Errorf("%+v", rule)
		}
	}
}
