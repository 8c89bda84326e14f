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
)

func TestLlama8BOnL4(t *testing.T) {
	m := llama8B(t)
	n := need(t, m, Serving{})
	if n.WeightsBytes != 16060522496 { // 8 030 261 248 parameters x 2
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
	if n.Estimated || len(n.Notes) > 0 || n.ReplicatedBytes != 0 || n.KVWindowBytesPerToken != 0 || n.KVStateBytes != 0 {
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
	overhead := n.BudgetBytes(l4) - n.WeightsBytes - measured
	if n.CacheTokens(l4, overhead) != 40208 {
		t.Errorf("%d tokens of cache with the overhead that was measured", n.CacheTokens(l4, overhead))
	}
	if overhead < n.OverheadMinBytes || overhead > n.OverheadMaxBytes {
		t.Errorf("measured overhead %d is outside of %d to %d", overhead, n.OverheadMinBytes, n.OverheadMaxBytes)
	}
	// A request of full length does not fit on it, one of 32 Ki tokens does.
	if n.Fits(l4, l4) {
		t.Error("128 Ki tokens fit on an L4")
	}
	if !need(t, m, Serving{MaxModelLen: 32768}).Fits(l4, l4) {
		t.Error("32 Ki tokens do not fit on an L4")
	}
	if got := n.LargestMaxModelLen(l4, 131072); got != 46992 { // (22220667618-16060522496)/131072 in whole blocks
		t.Errorf("largest max-model-len on an L4: %d", got)
	}
	if got := n.LargestMaxModelLen(h200, 131072); got != 131072 {
		t.Errorf("largest max-model-len on an H200: %d", got)
	}
	if got := n.LargestMaxModelLen(16*gi, 131072); got != 0 {
		t.Errorf("largest max-model-len where not even the weights fit: %d", got)
	}
}

func TestFitsAtItsEdges(t *testing.T) {
	n := need(t, llama8B(t), Serving{MaxModelLen: 46992})
	budget := n.BudgetBytes(l4)
	for _, tt := range []struct {
		what        string
		total, free uint64
		want        bool
	}{
		{"all free", l4, l4, true},
		{"exactly the budget free", l4, budget, true},
		{"a byte less than the budget free", l4, budget - 1, false},
		{"nothing free", l4, 0, false},
		{"unknown memory", 0, 0, false},
		{"larger GPU, as much free", h200, budget, false},
	} {
		if got := n.Fits(tt.total, tt.free); got != tt.want {
			t.Errorf("%s: fits is %v: %s", tt.what, got, n.Obstacle(tt.total, tt.free))
		}
	}
	if need(t, llama8B(t), Serving{MaxModelLen: 46993}).Fits(l4, l4) {
		t.Error("one token more than the largest max-model-len fits")
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
		if n.WeightsBytes != tt.weights || n.ReplicatedBytes != tt.replicated || n.KVBytesPerToken != tt.token {
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
		{Serving{MaxModelLen: -1}, []string{"maxModelLen is -1", "1 or more", "131072"}},
		{Serving{MaxModelLen: math.MaxInt64}, []string{"maxModelLen is 9223372036854775807"}},
		{Serving{GPUMemoryUtilization: -0.5}, []string{"gpuMemoryUtilization is -0.5", "at most 1"}},
		{Serving{GPUMemoryUtilization: 1.01}, []string{"gpuMemoryUtilization is 1.01"}},
		{Serving{GPUMemoryUtilization: math.NaN()}, []string{"gpuMemoryUtilization is NaN"}},
		{Serving{KVCacheDtype: "int3"}, []string{`"int3"`, "auto", "fp8"}},
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
