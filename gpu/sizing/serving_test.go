package sizing

import (
	"math"
	"strings"
	"testing"
)

// TestArgumentsChangeTheSum: each argument moves the terms that it is about, and no others.
func TestArgumentsChangeTheSum(t *testing.T) {
	m := llama8B(t)
	plain := need(t, m, Serving{})
	const logits, tokens = 128256, 8192
	for _, tt := range []struct {
		what                  string
		serving               Serving
		weights, token        uint64 // of one GPU
		sequences, batch      uint64
		leastChange, estimate bool
	}{
		{what: "nothing", weights: 16060522496, token: 131072, sequences: 1024, batch: tokens},
		{what: "few requests", serving: Serving{MaxNumSeqs: 16}, weights: 16060522496, token: 131072, sequences: 16, batch: tokens, leastChange: true},
		{what: "many requests", serving: Serving{MaxNumSeqs: 2048}, weights: 16060522496, token: 131072, sequences: 2048, batch: tokens, leastChange: true},
		{what: "small batches", serving: Serving{MaxNumBatchedTokens: 512}, weights: 16060522496, token: 131072, sequences: 512, batch: 512, leastChange: true},
		{what: "large batches", serving: Serving{MaxNumBatchedTokens: 65536}, weights: 16060522496, token: 131072, sequences: 1024, batch: 65536, leastChange: true},
		{what: "one short request", serving: Serving{MaxNumSeqs: 1, MaxModelLen: 128}, weights: 16060522496, token: 131072, sequences: 1, batch: 128, leastChange: true},
		{what: "whole prompts", serving: Serving{WholePrompts: true}, weights: 16060522496, token: 131072, sequences: 1024, batch: 131072, leastChange: true},
		{what: "fp8 on loading", serving: Serving{Quantization: "fp8"}, weights: 16060522496 - 32*218103808, token: 131072, sequences: 1024, batch: tokens},
		{what: "a method by another case", serving: Serving{Quantization: "FP8"}, weights: 16060522496 - 32*218103808, token: 131072, sequences: 1024, batch: tokens},
		{what: "an unknown method", serving: Serving{Quantization: "bitsandbytes"}, weights: 16060522496, token: 131072, sequences: 1024, batch: tokens, estimate: true},
		{what: "a method of a newer release", serving: Serving{Quantization: "fp8_per_block", VLLMVersion: "0.32"}, weights: 16060522496, token: 131072, sequences: 1024, batch: tokens, estimate: true},
		{what: "offloaded weights", serving: Serving{CPUOffloadGB: 4}, weights: 16060522496, token: 131072, sequences: 1024, batch: tokens},
		{what: "float32", serving: Serving{Dtype: "float32"}, weights: 2 * 16060522496, token: 262144, sequences: 1024, batch: tokens},
		{what: "float16", serving: Serving{Dtype: "half"}, weights: 16060522496, token: 131072, sequences: 1024, batch: tokens},
		{what: "what is not counted", serving: Serving{Uncounted: []string{"--enable-lora"}}, weights: 16060522496, token: 131072, sequences: 1024, batch: tokens, estimate: true},
	} {
		n := need(t, m, tt.serving)
		if n.WeightsBytes != tt.weights || n.KVBytesPerToken != tt.token || n.MaxNumSeqs != tt.sequences || n.MaxNumBatchedTokens != tt.batch || n.Estimated != tt.estimate {
			t.Errorf("%s: weights %d, %d bytes a token, batches of %d requests and %d tokens, estimated %v (%q)", tt.what,
				n.WeightsBytes, n.KVBytesPerToken, n.MaxNumSeqs, n.MaxNumBatchedTokens, n.Estimated, n.Notes)
		}
		if tt.leastChange {
			least := max(tt.sequences*logits*6, 2*tt.batch*14336*2) // of the sampler or of the widest layer
			if n.OverheadMinBytes < least || (n.OverheadMinBytes > plain.OverheadMinBytes) != (least > 1024*logits*6) {
				t.Errorf("%s: %d bytes at the least beside weights and cache; without it %d", tt.what, n.OverheadMinBytes, plain.OverheadMinBytes)
			}
		}
		if n.OverheadMinBytes > n.OverheadMaxBytes {
			t.Errorf("%s: %d to %d bytes beside weights and cache", tt.what, n.OverheadMinBytes, n.OverheadMaxBytes)
		}
	}
}

// TestEnforceEager: without CUDA graphs there is nothing for them, in the budget or beside it.
func TestEnforceEager(t *testing.T) {
	for _, version := range []string{"0.19", "0.33"} {
		with, without := need(t, llama8B(t), Serving{VLLMVersion: version}), need(t, llama8B(t), Serving{VLLMVersion: version, EnforceEager: true})
		saved := with.OverheadMaxBytes - without.OverheadMaxBytes + with.outside - without.outside
		if saved != 600<<20+32*18<<20 || without.outside != 0 || with.OverheadMinBytes < without.OverheadMinBytes {
			t.Errorf("by the rules of %s, %d bytes are saved and %d are beside the budget", version, saved, without.outside)
		}
	}
}

func TestGraphSizes(t *testing.T) {
	for sequences, want := range map[uint64]uint64{1: 2, 2: 3, 8: 5, 128: 35, 256: mostGraphs, 1024: mostGraphs, math.MaxUint64: mostGraphs} {
		if got := graphSizes(sequences); got != want {
			t.Errorf("%d requests: %d graphs; want %d", sequences, got, want)
		}
	}
}

// TestRefusedArguments: what vLLM refuses for every model, and for this one.
func TestRefusedArguments(t *testing.T) {
	m := llama8B(t)
	for _, tt := range []struct {
		serving Serving
		want    []string
	}{
		{Serving{PipelineParallel: -1}, []string{"pipelineParallel is -1"}},
		{Serving{PipelineParallel: 1 << 30}, []string{"pipelineParallel is 1073741824"}},
		{Serving{MaxNumSeqs: -1}, []string{"maxNumSeqs is -1", "1 or more"}},
		{Serving{MaxNumBatchedTokens: -1}, []string{"maxNumBatchedTokens is -1", "1 or more"}},
		{Serving{MaxNumSeqs: 256, MaxNumBatchedTokens: 128}, []string{"128 tokens", "256 requests", "--max-num-seqs"}},
		{Serving{MaxNumBatchedTokens: 2048, WholePrompts: true}, []string{"2048 tokens", "131072", "chunked prefill"}},
		{Serving{CPUOffloadGB: -1}, []string{"cpuOffloadGB is -1"}},
		{Serving{CPUOffloadGB: math.NaN()}, []string{"cpuOffloadGB is NaN"}},
		{Serving{CPUOffloadGB: math.Inf(1)}, []string{"cpuOffloadGB is +Inf"}},
		{Serving{Dtype: "int8"}, []string{`"int8"`, "bfloat16"}},
		{Serving{Dtype: "int8", MaxNumSeqs: -1}, []string{`"int8"`, "maxNumSeqs"}},
	} {
		_, err := m.Need(tt.serving)
		wantError(t, tt.want[0], err, tt.want...)
	}
	// Which batch is the default depends on the GPU, and with it whether it is large enough.
	n := need(t, m, Serving{MaxNumSeqs: 4096})
	if got, why := n.On(DeviceMemory{Name: "NVIDIA L4", TotalBytes: l4}).Verdict(l4, l4); got != No || !strings.Contains(why, "2048 tokens") {
		t.Errorf("4096 requests on an L4: %s, %s", got, why)
	}
	if got, why := n.On(DeviceMemory{TotalBytes: h200}).Verdict(h200, h200); got != Fits {
		t.Errorf("4096 requests on an H200: %s, %s", got, why)
	}
}

// TestAutoLength: a length that vLLM chooses by the memory is no obstacle where one token has room.
func TestAutoLength(t *testing.T) {
	m := llama8B(t)
	device := DeviceMemory{Name: "NVIDIA L4", TotalBytes: l4}
	if got, _ := need(t, m, Serving{}).On(device).Verdict(l4, l4); got != No {
		t.Fatalf("the model's own length on an L4: %s", got)
	}
	n := need(t, m, Serving{MaxModelLen: AutoLength}).On(device)
	got, why := n.Verdict(l4, l4)
	if longest := n.LargestMaxModelLen(l4, n.MaxModelLen); got != Fits || !n.AutoLength || n.MaxModelLen != 131072 || n.KVBytes != 16*131072 || longest < 16000 || longest > 131071 {
		t.Errorf("%s (%s): %d bytes of cache, longest request of %d tokens", got, why, n.KVBytes, longest)
	}
	if short := need(t, m, Serving{}).On(device).CacheTokens(l4, 0); n.CacheTokens(l4, 0) != short {
		t.Errorf("%d tokens of cache; %d without", n.CacheTokens(l4, 0), short)
	}
}

// TestCPUOffload: what is offloaded is missed on the GPU, as far as it is in layers.
func TestCPUOffload(t *testing.T) {
	m := llama8B(t)
	plain := need(t, m, Serving{})
	const layer = 436224000 // of each of 32
	for gb, want := range map[float64]uint64{0: 0, 0.5: gi / 2, 4: 4 * gi, 100: 32 * layer, 1e300: 32 * layer} {
		n := need(t, m, Serving{CPUOffloadGB: gb})
		if n.CPUOffloadBytes != want || n.TotalBytes() != plain.TotalBytes()-want {
			t.Errorf("%v GiB: %d bytes are offloaded, want %d; %d are left of %d", gb, n.CPUOffloadBytes, want, n.TotalBytes(), plain.TotalBytes())
		}
		if want > 0 && (n.OverheadMaxBytes < plain.OverheadMaxBytes || n.OverheadMinBytes > plain.OverheadMinBytes) {
			t.Errorf("%v GiB: %d to %d bytes beside it, without %d to %d", gb, n.OverheadMinBytes, n.OverheadMaxBytes, plain.OverheadMinBytes, plain.OverheadMaxBytes)
		}
	}
	two := need(t, m, Serving{CPUOffloadGB: 100, TensorParallel: 2})
	if two.CPUOffloadBytes != 16*layer {
		t.Errorf("on two GPUs %d bytes are offloaded", two.CPUOffloadBytes)
	}
	// A GPU that cannot hold the weights holds what is left of them.
	const small = 12 * gi
	serving := Serving{MaxModelLen: 2048, MaxNumSeqs: 8}
	if got, _ := need(t, m, serving).On(DeviceMemory{TotalBytes: small}).Verdict(small, small); got != No {
		t.Errorf("on 12 GiB: %s", got)
	}
	serving.CPUOffloadGB = 10
	if got, why := need(t, m, serving).On(DeviceMemory{TotalBytes: small}).Verdict(small, small); got != Fits {
		t.Errorf("on 12 GiB with 10 GiB offloaded: %s, %s", got, why)
	}
}

// TestQuantizedAlready: naming what config.json states changes nothing.
func TestQuantizedAlready(t *testing.T) {
	for _, tt := range []struct {
		shape, method string
		estimate      bool
	}{
		{"qwen25-7b-awq", "awq", false},
		{"qwen25-7b-awq", "awq_marlin", false},
		{"qwen25-72b-gptq4", "gptq_marlin", false},
		{"qwen25-7b-w8a8", "compressed-tensors", false},
		{"qwen25-7b-w8a8", "fp8", true},
		{"deepseek-v2-lite", "fp8", true},
		{"gemma3-4b", "fp8", true},
	} {
		plain, n := need(t, shape(t, tt.shape), Serving{}), need(t, shape(t, tt.shape), Serving{Quantization: tt.method})
		if n.Estimated != (tt.estimate || plain.Estimated) || !tt.estimate && n.WeightsBytes != plain.WeightsBytes {
			t.Errorf("%s with --quantization %s: %d bytes, estimated %v (%q); without %d", tt.shape, tt.method, n.WeightsBytes, n.Estimated, n.Notes, plain.WeightsBytes)
		}
	}
}

// TestStateOfEachRequest: vLLM starts a model with states only where the cache has a block for each request of a batch.
func TestStateOfEachRequest(t *testing.T) {
	h100 := DeviceMemory{Name: "NVIDIA H100 80GB HBM3", TotalBytes: h100CUDA}
	m := shape(t, "qwen36-27b")
	for _, tt := range []struct {
		what    string
		serving Serving
		want    Verdict
		more    bool
	}{
		{"the default of 1024 requests", Serving{}, No, true},
		{"fewer", Serving{MaxNumSeqs: 256}, Fits, false},
		{"what one request takes anyway", Serving{MaxNumSeqs: 340}, Fits, false},
		{"without graphs", Serving{EnforceEager: true}, Fits, false},
		{"before 0.20", Serving{VLLMVersion: "0.19", GPUMemoryUtilization: 0.92}, Fits, false},
	} {
		n := need(t, m, tt.serving).On(h100)
		got, why := n.Verdict(h100CUDA, h100CUDA)
		if got != tt.want || (n.KVSequencesBytes > 0) != tt.more || tt.more != strings.Contains(why, "--max-num-seqs") {
			t.Errorf("%s: %s (%s), %d bytes more of cache", tt.what, got, why, n.KVSequencesBytes)
		}
		if longest := n.LargestMaxModelLen(h100CUDA, 131072); (longest == 0) != (tt.want == No) {
			t.Errorf("%s: the longest request has %d tokens", tt.what, longest)
		}
	}
	if n := need(t, llama8B(t), Serving{MaxNumSeqs: 1 << 20, MaxNumBatchedTokens: 1 << 20}); n.KVSequencesBytes != 0 {
		t.Errorf("a model without states: %d bytes", n.KVSequencesBytes)
	}
}
