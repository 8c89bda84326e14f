package sizing

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func board(n int, total uint64) []DeviceMemory {
	var list []DeviceMemory
	for range n {
		list = append(list, DeviceMemory{UUID: "GPU", TotalBytes: total, FreeBytes: total})
	}
	return list
}

func report(tb testing.TB, m Model, s Serving, devices []DeviceMemory) Report {
	tb.Helper()
	r, err := m.Report(s, devices)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestReportOfEverySize(t *testing.T) {
	m := llama8B(t)
	r := report(t, m, Serving{}, board(8, l4))
	type row struct {
		tp, replicas int
		fits         bool
		longest      int64
	}
	var got []row
	for _, s := range r.TensorParallelSizes {
		if s.Impossible != "" || s.Need == nil || len(s.GPUs) != 8 {
			t.Fatalf("%+v", s)
		}
		if one := need(t, m, Serving{TensorParallel: s.TensorParallel}).On(board(1, l4)[0]); !reflect.DeepEqual(one, *s.Need) {
			t.Errorf("%d GPUs: %+v; want %+v", s.TensorParallel, *s.Need, one)
		}
		got = append(got, row{s.TensorParallel, s.Replicas, s.GPUs[0].Fits, s.GPUs[0].LargestMaxModelLen})
	}
	// Weights and 16 GiB of cache need two L4 together.
	want := []row{{1, 0, false, 27232}, {2, 4, true, 131072}, {4, 2, true, 131072}, {8, 1, true, 131072}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.TensorParallel != 1 || r.Replicas != 0 || len(r.GPUs) != 8 || r.GPUs[0].LargestMaxModelLen != 27232 {
		t.Errorf("the report's own terms are not of one GPU: %+v", r)
	}
	if only := report(t, m, Serving{TensorParallel: 4}, board(8, l4)); len(only.TensorParallelSizes) != 1 || only.TensorParallel != 4 || only.Replicas != 2 {
		t.Errorf("4 GPUs were asked for: %+v", only.TensorParallelSizes)
	}
}

// What no process can start on holds no replica, however much of it is free.
func TestBlockedDevices(t *testing.T) {
	devices := board(3, l4)
	devices[1].Blocked = "taken"
	r := report(t, llama8B(t), Serving{TensorParallel: 1, MaxModelLen: 1024}, devices)
	if r.Replicas != 2 || !r.GPUs[0].Fits || r.GPUs[1].Fits || r.GPUs[1].Reason != "taken" || !r.GPUs[2].Fits {
		t.Errorf("%d replicas on %+v; want 2, and none on the blocked one", r.Replicas, r.GPUs)
	}
	if n := need(t, llama8B(t), Serving{TensorParallel: 2, MaxModelLen: 1024}).Replicas(devices); n != 1 {
		t.Errorf("%d replicas of 2 GPUs; want 1", n)
	}
}

func TestSizesOfBoards(t *testing.T) {
	part := DeviceMemory{TotalBytes: gi, Partition: true}
	for _, tt := range []struct {
		serving Serving
		devices []DeviceMemory
		want    []int
	}{
		{Serving{}, nil, []int{1}},
		{Serving{}, board(1, l4), []int{1}},
		{Serving{}, board(3, l4), []int{1, 2}},
		{Serving{}, board(8, l4), []int{1, 2, 4, 8}},
		{Serving{PipelineParallel: 2}, board(8, l4), []int{1, 2, 4}},
		{Serving{PipelineParallel: 2, Nodes: 2}, board(8, l4), []int{1, 2, 4, 8}},
		{Serving{Nodes: 2}, board(8, l4), []int{2, 4, 8, 16}},
		{Serving{}, append(board(3, l4), part), []int{1, 2}},
		{Serving{}, []DeviceMemory{part, part}, []int{1}},
	} {
		if diff := cmp.Diff(tt.want, tt.serving.tensorParallelSizes(tt.devices)); diff != "" {
			t.Errorf("%d devices (-want +got):\n%s", len(tt.devices), diff)
		}
	}
}

// A replica on several nodes takes its part of each, and a node holds as many parts as fit there. What it takes of
// each GPU is as on one node. Parts of GPUs do not work together, on one node or on two.
func TestNodes(t *testing.T) {
	m := llama8B(t)
	here, apart := Serving{TensorParallel: 4, PipelineParallel: 2}, Serving{TensorParallel: 4, PipelineParallel: 2, Nodes: 2}
	one, two := report(t, m, here, board(8, l4)), report(t, m, apart, board(8, l4))
	if one.TensorParallelSizes[0].GPUsPerReplica != 8 || one.Replicas != 1 || two.TensorParallelSizes[0].GPUsPerReplica != 4 || two.Replicas != 2 {
		t.Errorf("%d replicas on one node, %d parts of them on each of two; want 1 and 2", one.Replicas, two.Replicas)
	}
	if one.TotalBytes() != two.TotalBytes() || one.MostBytes() != two.MostBytes() {
		t.Errorf("a GPU takes %d on one node, and %d on two", one.TotalBytes(), two.TotalBytes())
	}
	parts := []DeviceMemory{{TotalBytes: 80 * gi, FreeBytes: 80 * gi, Partition: true}}
	if r := report(t, m, Serving{TensorParallel: 1, PipelineParallel: 2, Nodes: 2}, parts); r.Replicas != 0 {
		t.Errorf("%d parts of a replica on a MIG device", r.Replicas)
	}
	for _, s := range []Serving{{TensorParallel: 1, Nodes: 2}, {TensorParallel: 1, PipelineParallel: 2, Nodes: 4}, {Nodes: -1}} {
		if _, err := m.Need(s); err == nil || !strings.Contains(err.Error(), "nnodes") {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestImpossibleSizes(t *testing.T) {
	m := read(t, tiny(t, `{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 84, "num_attention_heads": 14, "num_key_value_heads": 2,
		"max_position_embeddings": 64}`))
	r := report(t, m, Serving{}, board(8, l4))
	for i, want := range []string{"", "", "tensorParallel is 4, which does not divide the model's 14 attention heads; it takes 1 or 2", "tensorParallel is 8, which does not divide the model's 14 attention heads; it takes 1 or 2"} {
		s := r.TensorParallelSizes[i]
		if s.Impossible != want || (s.Need == nil) != (want != "") || want != "" && (s.Replicas != 0 || len(s.GPUs) != 0 || s.GPUs == nil) {
			t.Errorf("%d GPUs: %+v", s.TensorParallel, s)
		}
	}
	if _, err := m.Report(Serving{TensorParallel: 4}, board(8, l4)); err == nil {
		t.Error("a size that vLLM refuses was asked for and computed")
	}
}

func TestWhereTheRuleOfThumbMisleads(t *testing.T) {
	const llama = `"model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": 4, "hidden_size": 1024, "num_attention_heads": 8`
	for _, tt := range []struct {
		name, config string
		tensors      []tensor
		tp           int
		want         []string
	}{
		{"nowhere", `{` + llama + `, "num_key_value_heads": 2, "max_position_embeddings": 64}`, []tensor{w("a", "BF16", 1<<10, 1<<10)}, 1, nil},
		{
			"long requests, a head each", `{` + llama + `, "max_position_embeddings": 4096}`,
			[]tensor{w("a", "BF16", 1<<10, 1<<10)},
			1,
			[]string{"one request of 4096 tokens takes 64.00 MiB", "each of the 8 attention heads"},
		},
		{
			"quantized", `{` + llama + `, "num_key_value_heads": 2, "max_position_embeddings": 64, "quantization_config": {"quant_method": "fp8"}}`,
			[]tensor{w("a", "F8_E4M3", 1<<10, 1<<10)},
			1,
			[]string{"a parameter takes 1.00 bytes of memory, not 2, because the weights are quantized (fp8)"},
		},
		{
			"MLA", `{"model_type": "deepseek_v3", "num_hidden_layers": 1, "num_attention_heads": 8, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "max_position_embeddings": 64}`,
			[]tensor{w("a", "BF16", 1<<10, 1<<10)},
			1,
			[]string{"latent vector of 576 numbers"},
		},
		{
			"windows", `{` + llama + `, "num_key_value_heads": 2, "max_position_embeddings": 65536, "sliding_window": 16}`,
			[]tensor{w("a", "BF16", 1<<15, 1<<15)},
			1,
			[]string{"4 of 4 layers does not grow"},
		},
		{
			"windows that no request outgrows", `{` + llama + `, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 16}`,
			[]tensor{w("a", "BF16", 1<<10, 1<<10)},
			1,
			nil,
		},
		{
			"more GPUs than heads", `{` + llama + `, "num_key_value_heads": 2, "max_position_embeddings": 64}`,
			[]tensor{w("a", "BF16", 1<<11, 1<<11)},
			8,
			[]string{"8 GPUs share 2 KV heads, so the cache of a token is kept 4 times"},
		},
	} {
		m := read(t, newModel(tt.config).with(t, "model.safetensors", tt.tensors...))
		got := report(t, m, Serving{TensorParallel: tt.tp}, nil).RuleOfThumbMisleads
		if len(got) != len(tt.want) || got == nil {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
			continue
		}
		for i := range got {
			if !hasNote(got[i:i+1], tt.want[i]) {
				t.Errorf("%s: %q does not say %q", tt.name, got[i], tt.want[i])
			}
		}
	}
}
