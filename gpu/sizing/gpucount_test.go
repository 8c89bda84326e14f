package sizing

import "testing"

// TestDoubtGPUs: where it is not known how many GPUs a replica takes, no replica is promised, and none is refused.
func TestDoubtGPUs(t *testing.T) {
	m := llama8B(t)
	for argument, doubted := range map[string]bool{"--data-parallel-size": true, "--data-parallel-rank": true, "--prefill-context-parallel-size": true, "--enable-lora": false} {
		s := Serving{Uncounted: []string{"--max-loras", argument}}
		r := report(t, m, s, board(8, h200))
		if (s.DoubtGPUs() != "") != doubted || !r.Estimated || hasNote(r.Notes, argument+" may change how many GPUs") != doubted {
			t.Errorf("%s: %q, %q", argument, s.DoubtGPUs(), r.Notes)
		}
		for _, size := range r.TensorParallelSizes {
			if promised := size.Replicas > 0 && size.Verdict == Fits; promised == doubted || doubted && size.Verdict != Unknown {
				t.Errorf("%s on %d GPUs: %d replicas, %s", argument, size.GPUsPerReplica, size.Replicas, size.Verdict)
			}
		}
	}
}
