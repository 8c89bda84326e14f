package sizing

import (
	"encoding/json"
	"math"
	"testing"
)

const (
	gi = 1 << 30
	// l4 is the memory of an NVIDIA L4: 22.49 GiB.
	l4 = 23034 << 20
	// h200 is that of an H200 on a DGX.
	h200 = 151397597184
	// rotary8B is Llama-3.1-8B's table of rotary positions: 131072 positions x 128 numbers x 2 bytes.
	rotary8B = 131072 * 128 * 2
)

func TestLlama8BOnL4(t *testing.T) {
	m := llama8B(t)
	n := need(t, m, Serving{})
	if n.WeightsBytes != 16060522496 || n.RotaryBytes != rotary8B { // 8 030 261 248 parameters x 2
		t.Errorf("weights are %d bytes", n.WeightsBytes)
	}
	if m.Weights.Parameters != 8030261248 || m.Weights.ByDType["BF16"] != 16060522496 || len(m.Weights.Files) != 4 {
		t.Errorf("weights: %+v", m.Weights)
	}
	if n.KVBytesPerToken != 131072 {
		t.Errorf("KV cache takes %d bytes per token", n.KVBytesPerToken)
	}
	if n.MaxModelLen != 131072 || n.KVBytes != 16*gi || n.KVCacheDtype != "bfloat16" || n.TensorParallel != 1 || n.GPUMemoryUtilization != 0.92 {
		t.Errorf("defaults: %+v", n)
	}
	if n.Estimated || len(n.Notes) > 0 || n.ReplicatedBytes != rotary8B || n.KVWindowBytesPerToken != 0 || n.KVStateBytes != 0 {
		t.Errorf("everything here is exact and simple: %+v", n)
	}
	if got := m.RuleOfThumbBytes(); got != 8030261248*5/2 {
		t.Errorf("rule of thumb: %d", got)
	}
	// The budget is 20.69 GiB, rounded up to the byte as vLLM does.
	if got := n.BudgetBytes(l4); got != 22220667618 {
		t.Errorf("budget of an L4 is %d bytes", got)
	}
	// There vLLM has 4.91 GiB = 40 208 tokens of cache. What it took for itself
	// lies in the range that is stated for it.
	const measured = 40208 * 131072
	overhead := n.BudgetBytes(l4) - n.WeightsBytes - n.ReplicatedBytes - measured
	if n.CacheTokens(l4, overhead) != 40208 {
		t.Errorf("%d tokens of cache with the overhead that was measured", n.CacheTokens(l4, overhead))
	}
	on := n.On(DeviceMemory{Name: "NVIDIA L4", TotalBytes: l4})
	if overhead < on.OverheadMinBytes || overhead > on.OverheadMaxBytes {
		t.Errorf("measured overhead %d is outside of %d to %d", overhead, on.OverheadMinBytes, on.OverheadMaxBytes)
	}
	// A request of full length does not fit on it, one of 16 Ki tokens does, and of one of 40 000, which was measured to
	// fit, it is not certain.
	device := DeviceMemory{Name: "NVIDIA L4", TotalBytes: l4}
	for length, want := range map[int64]Verdict{131072: No, 16384: Fits, 40000: Tight} {
		if got, why := need(t, m, Serving{MaxModelLen: length}).On(device).Verdict(l4, l4); got != want || (why == "") != (want == Fits) {
			t.Errorf("%d tokens on an L4: %s, %q; want %s", length, got, why, want)
		}
	}
	if got := on.LargestMaxModelLen(l4, 131072); uint64(got) != (on.BudgetBytes(l4)-on.TotalBytes()+on.KVBytes-on.OverheadMaxBytes)/131072/16*16 {
		t.Errorf("largest max-model-len on an L4: %d", got)
	}
	if got := n.LargestMaxModelLen(h200, 131072); got != 131072 {
		t.Errorf("largest max-model-len on an H200: %d", got)
	}
	if got := n.LargestMaxModelLen(16*gi, 131072); got != 0 {
		t.Errorf("largest max-model-len where not even the weights fit: %d", got)
	}
}

func TestVerdictAtItsEdges(t *testing.T) {
	device := DeviceMemory{Name: "NVIDIA L4", TotalBytes: l4}
	longest := need(t, llama8B(t), Serving{}).On(device).LargestMaxModelLen(l4, 131072)
	n := need(t, llama8B(t), Serving{MaxModelLen: longest}).On(device)
	budget := n.BudgetBytes(l4)
	for _, tt := range []struct {
		what        string
		total, free uint64
		want        Verdict
	}{
		{"all free", l4, l4, Fits},
		{"exactly the budget free", l4, budget, Fits},
		{"a byte less than the budget free", l4, budget - 1, No},
		{"nothing free", l4, 0, No},
		{"unknown memory", 0, 0, Unknown},
		{"larger GPU, as much free", h200, budget, No},
	} {
		got, why := n.Verdict(tt.total, tt.free)
		if got != tt.want || n.Fits(tt.total, tt.free) != (tt.want == Fits) || (why == "") != (tt.want == Fits) {
			t.Errorf("%s: %s: %s", tt.what, got, why)
		}
	}
	// One block more is not certain any more, and what the range leaves open is not refused.
	room := (n.OverheadMaxBytes - n.OverheadMinBytes) / 131072 / 16 * 16
	for more, want := range map[uint64]Verdict{1: Tight, room: Tight, room + 32: No} {
		serving := Serving{MaxModelLen: longest + int64(more)}
		if got, why := need(t, llama8B(t), serving).On(device).Verdict(l4, l4); got != want || why == "" {
			t.Errorf("%d tokens more than fit for certain: %s (%s); want %s", more, got, why, want)
		}
	}
}

// TestBatches: what vLLM takes into a batch depends on the GPU, and the bounds with it.
func TestBatches(t *testing.T) {
	m := llama8B(t)
	last := uint64(0)
	for _, tt := range []struct {
		version, name string
		total         uint64
		want          batch
	}{
		{"0.33", "NVIDIA L4", l4, batch{2048, 256, true}},
		{"0.33", "NVIDIA A100-SXM4-80GB", 80 * gi, batch{2048, 256, true}},
		{"0.33", "NVIDIA GB10", 120 * gi, batch{2048, 256, true}},
		{"0.33", "NVIDIA H100 80GB HBM3", 80 * gi, batch{8192, 1024, false}},
		{"0.33", "NVIDIA H200", h200, batch{8192, 1024, false}},
		{"0.33", "NVIDIA B200", 180 * gi, batch{16384, 1024, false}},
	} {
		n := need(t, m, Serving{VLLMVersion: tt.version}).On(DeviceMemory{Name: tt.name, TotalBytes: tt.total})
		if n.batch != tt.want || n.OverheadMaxBytes < last || n.OverheadMinBytes > n.OverheadMaxBytes {
			t.Errorf("%s: %+v, %d to %d bytes; want %+v", tt.name, n.batch, n.OverheadMinBytes, n.OverheadMaxBytes, tt.want)
		}
		last = n.OverheadMaxBytes
	}
	if old := need(t, m, Serving{VLLMVersion: "0.27"}).On(DeviceMemory{Name: "NVIDIA B200", TotalBytes: 180 * gi}); old.batch != (batch{8192, 1024, false}) {
		t.Errorf("a B200 with vLLM 0.27: %+v", old.batch)
	}
}

func TestTensorParallel(t *testing.T) {
	m := llama8B(t)
	const (
		norms = 65 * 4096 * 2
		kv    = 32 * 2 * 1024 * 4096 * 2 // K and V projections
	)
	for _, tt := range []struct {
		tp                         int
		weights, replicated, token uint64
	}{
		{1, 16060522496, 0, 131072},
		{2, 8030261248, norms / 2, 65536},
		{8, 2007565312, norms - norms/8, 16384},
		{16, 1003782656, norms - norms/16 + kv/8 - kv/16, 16384}, // 8 KV heads on 16 GPUs
		{32, 501891328, norms - norms/32 + kv/8 - kv/32, 16384},
	} {
		n := need(t, m, Serving{TensorParallel: tt.tp})
		if n.WeightsBytes != tt.weights || n.ReplicatedBytes != tt.replicated+rotary8B || n.KVBytesPerToken != tt.token {
			t.Errorf("tp %d: weights %d, replicated %d, KV %d per token; want %d, %d, %d",
				tt.tp, n.WeightsBytes, n.ReplicatedBytes, n.KVBytesPerToken, tt.weights, tt.replicated, tt.token)
		}
		if (tt.tp > 8) != hasNote(n.Notes, "8 KV heads") {
			t.Errorf("tp %d: notes %q", tt.tp, n.Notes)
		}
	}
}

func TestBadServing(t *testing.T) {
	m := llama8B(t)
	for _, tt := range []struct {
		serving Serving
		want    []string
	}{
		{Serving{TensorParallel: 3}, []string{"tensorParallel is 3", "32 attention heads"}},
		{Serving{TensorParallel: 64}, []string{"tensorParallel is 64", "32 attention heads"}},
		{Serving{TensorParallel: -1}, []string{"tensorParallel is -1", "1 or more"}},
		{Serving{MaxModelLen: -2}, []string{"maxModelLen is -2", "1 or more"}},
		{Serving{MaxModelLen: math.MaxInt64}, []string{"maxModelLen is 9223372036854775807"}},
		{Serving{GPUMemoryUtilization: -0.5}, []string{"gpuMemoryUtilization is -0.5", "at most 1"}},
		{Serving{GPUMemoryUtilization: 1.01}, []string{"gpuMemoryUtilization is 1.01"}},
		{Serving{GPUMemoryUtilization: math.NaN()}, []string{"gpuMemoryUtilization is NaN"}},
		{Serving{VLLMVersion: "0.18"}, []string{`"0.18"`, "0.19 to 0.33"}},
		{Serving{VLLMVersion: "0.34.0"}, []string{`"0.34.0"`}},
		{Serving{VLLMVersion: "1.0"}, []string{`"1.0"`}},
		{Serving{VLLMVersion: "0.33.x"}, []string{`"0.33.x"`}},
		{Serving{VLLMVersion: "latest"}, []string{`"latest"`}},
	} {
		_, err := m.Need(tt.serving)
		wantError(t, tt.want[0], err, tt.want...)
		_, err = m.Report(tt.serving, nil)
		wantError(t, tt.want[0], err, tt.want...)
	}
	six := read(t, tiny(t, `{"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 12, "num_key_value_heads": 4}`))
	_, err := six.Need(Serving{TensorParallel: 6})
	wantError(t, "6 GPUs, 4 KV heads", err, "tensorParallel is 6", "4 KV heads")
}

func TestKVCacheDtype(t *testing.T) {
	m := llama8B(t)
	for dtype, want := range map[string]uint64{
		"auto": 131072, "bfloat16": 131072, "float16": 131072, "fp8": 65536, "fp8_e4m3": 65536, "fp8_e5m2": 65536,
	} {
		if got := need(t, m, Serving{KVCacheDtype: dtype}).KVBytesPerToken; got != want {
			t.Errorf("%s: %d bytes per token; want %d", dtype, got, want)
		}
	}
}

func TestReplicas(t *testing.T) {
	free := func(free ...uint64) []DeviceMemory {
		var list []DeviceMemory
		for _, f := range free {
			list = append(list, DeviceMemory{TotalBytes: h200, FreeBytes: f})
		}
		return list
	}
	m := llama8B(t)
	const most = h200 - gi
	for _, tt := range []struct {
		tp      int
		devices []DeviceMemory
		want    int
	}{
		{1, nil, 0},
		{1, free(most, most, 100*gi, most), 3},
		{2, free(most, most, 100*gi, most), 1},
		{2, free(most, most, most, most), 2},
		{4, free(most, most, 100*gi, most), 0},
		{1, append(free(most), DeviceMemory{TotalBytes: 70 * gi, FreeBytes: 70 * gi, Partition: true}), 2},
		{2, append(free(most), DeviceMemory{TotalBytes: 70 * gi, FreeBytes: 70 * gi, Partition: true}), 0},
		{1, free(0, 0), 0},
	} {
		if got := need(t, m, Serving{TensorParallel: tt.tp}).Replicas(tt.devices); got != tt.want {
			t.Errorf("tp %d on %v: %d replicas; want %d", tt.tp, tt.devices, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	r, err := llama8B(t).Report(Serving{MaxModelLen: 32768, TensorParallel: 2}, []DeviceMemory{
		{UUID: "GPU-a", TotalBytes: h200, FreeBytes: h200 - gi},
		{UUID: "GPU-b", TotalBytes: h200, FreeBytes: gi},
		{UUID: "GPU-c", TotalBytes: l4, FreeBytes: l4},
		{UUID: "MIG-d", TotalBytes: l4, FreeBytes: l4, Partition: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		WeightsBytes     uint64   `json:"weightsBytes"`
		KVBytesPerToken  uint64   `json:"kvBytesPerToken"`
		KVBytes          uint64   `json:"kvBytes"`
		TensorParallel   int      `json:"tensorParallel"`
		RuleOfThumbBytes uint64   `json:"ruleOfThumbBytes"`
		Replicas         int      `json:"replicas"`
		Estimated        bool     `json:"estimated"`
		Notes            []string `json:"notes"`
		GPUs             []struct {
			UUID        string `json:"uuid"`
			BudgetBytes uint64 `json:"budgetBytes"`
			Fits        bool   `json:"fits"`
			Reason      string `json:"reason"`
			Largest     int64  `json:"largestMaxModelLen"`
		} `json:"gpus"`
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.WeightsBytes != 8030261248 || got.KVBytesPerToken != 65536 || got.KVBytes != 2*gi || got.TensorParallel != 2 ||
		got.RuleOfThumbBytes != 20075653120 || got.Replicas != 1 || got.Estimated {
		t.Errorf("sums: %+v", got)
	}
	want := []struct {
		fits   bool
		budget uint64
		reason bool
	}{{true, 139285789410, false}, {false, 139285789410, true}, {true, 22220667618, false}, {false, 22220667618, true}}
	if len(got.GPUs) != len(want) {
		t.Fatalf("GPUs: %+v", got.GPUs)
	}
	for i, g := range got.GPUs {
		if g.Fits != want[i].fits || g.BudgetBytes != want[i].budget || (g.Reason != "") != want[i].reason || g.Largest != 131072 {
			t.Errorf("%s: %+v", g.UUID, g)
		}
	}
	for i, g := range r.GPUs {
		if g.CacheTokensMin > g.CacheTokensMax || g.CacheTokensMin == 0 || g.CacheTokensMax*65536 > g.CacheBytes {
			t.Errorf("GPU %d: %d to %d tokens in %d bytes", i, g.CacheTokensMin, g.CacheTokensMax, g.CacheBytes)
		}
	}
	long, err := llama8B(t).Report(Serving{MaxModelLen: 262144}, nil)
	if err != nil || !hasNote(long.Notes, "beyond the model's own 131072") || long.GPUs == nil {
		t.Errorf("longer than the model: %+v, %v", long, err)
	}
}

func TestAbsurdNumbersDoNotFit(t *testing.T) {
	m := read(t, tiny(t, `{"num_hidden_layers": 1099511627776, "hidden_size": 1099511627776, "num_attention_heads": 1099511627776,
		"num_key_value_heads": 1099511627776, "head_dim": 1099511627776, "max_position_embeddings": 1099511627776,
		"vocab_size": 1099511627776, "intermediate_size": 1099511627776}`))
	n := need(t, m, Serving{})
	if n.KVBytes != math.MaxUint64 || n.Fits(math.MaxUint64, math.MaxUint64) {
		t.Errorf("KV cache of %d bytes; want the largest number there is, which fits nowhere", n.KVBytes)
	}
}
