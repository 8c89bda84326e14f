package sizing

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStageLayers(t *testing.T) {
	for _, tt := range []struct {
		layers uint64
		pp     int
		want   []uint64
	}{
		{32, 1, []uint64{32}},
		{32, 2, []uint64{16, 16}},
		{32, 3, []uint64{11, 11, 10}},
		{32, 5, []uint64{6, 6, 7, 7, 6}},
		{61, 4, []uint64{15, 15, 16, 15}},
		{2, 4, []uint64{0, 1, 1, 0}},
	} {
		if diff := cmp.Diff(tt.want, stageLayers(tt.layers, tt.pp)); diff != "" {
			t.Errorf("%d layers on %d stages (-want +got):\n%s", tt.layers, tt.pp, diff)
		}
	}
}

// TestStages: each stage holds its layers; embedding and head are at the ends.
func TestStages(t *testing.T) {
	m := llama8B(t)
	const layer, end, norm = 436224000, 128256 * 4096 * 2, 4096 * 2
	for pp, want := range map[int][]uint64{
		1: {32*layer + 2*end + norm},
		2: {16*layer + end + norm, 16*layer + end + norm},
		3: {11*layer + end + norm, 11*layer + norm, 10*layer + end + norm},
		8: {4*layer + end + norm, 4*layer + norm, 4*layer + end + norm}, // those in the middle are alike
	} {
		var held []uint64
		for _, s := range m.stages(pp) {
			held = append(held, s.Weights.LoadedBytes)
		}
		if diff := cmp.Diff(want, held); diff != "" {
			t.Errorf("%d stages (-want +got):\n%s", pp, diff)
		}
	}
}

// TestPipelineParallel: the stage that takes the most is what is said, and a replica takes GPUs for each.
func TestPipelineParallel(t *testing.T) {
	m := llama8B(t)
	n := need(t, m, Serving{PipelineParallel: 3, TensorParallel: 2})
	if n.WeightsBytes < 11*436224000/2 || n.KVBytesPerToken < 10*4096/2 || n.KVBytesPerToken > 11*4096/2 || n.GPUsPerReplica() != 6 || n.Estimated {
		t.Errorf("3 stages of 2 GPUs: weights %d, %d bytes a token, %d GPUs, estimated %v", n.WeightsBytes, n.KVBytesPerToken, n.GPUsPerReplica(), n.Estimated)
	}
	devices := board(8, h200)
	r := report(t, m, Serving{PipelineParallel: 3}, devices)
	if len(r.TensorParallelSizes) != 2 || r.TensorParallelSizes[0].Replicas != 2 || r.TensorParallelSizes[1].Replicas != 1 || r.TensorParallelSizes[1].GPUsPerReplica != 6 {
		t.Errorf("3 stages on 8 GPUs: %+v", r.TensorParallelSizes)
	}
	if few := report(t, m, Serving{PipelineParallel: 16}, devices); few.Replicas != 0 || few.Verdict != No {
		t.Errorf("16 stages on 8 GPUs: %d replicas, %s", few.Replicas, few.Verdict)
	}
	part := DeviceMemory{TotalBytes: h200, FreeBytes: h200, Partition: true}
	if got := need(t, m, Serving{PipelineParallel: 2}).Replicas([]DeviceMemory{part, part}); got != 0 {
		t.Errorf("a pipeline on parts of a GPU: %d replicas", got)
	}
}

// TestStagesAreEstimates: where a stage's part of the model is not known, the sum is an estimate that holds all of it.
func TestStagesAreEstimates(t *testing.T) {
	for _, name := range []string{"gemma3-27b", "gemma2-2b", "gpt-oss-20b"} {
		whole, n := need(t, shape(t, name), Serving{}), need(t, shape(t, name), Serving{PipelineParallel: 2})
		if !n.Estimated || n.WeightsBytes < whole.WeightsBytes/2 || n.WeightsBytes > whole.WeightsBytes*2/3 {
			t.Errorf("%s: two stages of %d bytes, estimated %v; whole %d", name, n.WeightsBytes, n.Estimated, whole.WeightsBytes)
		}
	}
	unread := newModel(llama8BConfig).file("pytorch_model.bin", string(make([]byte, 3200)))
	if n := need(t, read(t, unread), Serving{PipelineParallel: 4}); !n.Estimated || n.WeightsBytes != 800 {
		t.Errorf("a file that is not read: %d bytes on each of four stages", n.WeightsBytes)
	}
	// A stage without layers, and more stages than layers.
	if n := need(t, llama8B(t), Serving{PipelineParallel: 64}); n.WeightsBytes < 436224000 || !n.Estimated || !hasNote(n.Notes, "64 stages of 32 layers") {
		t.Errorf("64 stages of 32 layers: %d bytes, estimated %v, %q", n.WeightsBytes, n.Estimated, n.Notes)
	}
	if n := need(t, llama8B(t), Serving{PipelineParallel: 32}); n.Estimated {
		t.Errorf("32 stages of 32 layers are an estimate: %q", n.Notes)
	}
}
