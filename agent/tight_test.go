package agent

import (
	"testing"
	"time"

	"github.com/stoker-project/stoker/gpu"
)

// TestTightIsNotInTheLabel: the label counts what fits for certain, the annotation tells of the rest.
func TestTightIsNotInTheLabel(t *testing.T) {
	h100 := func(i int, free uint64) gpu.Device {
		return gpu.Device{Index: i, Name: "NVIDIA H100 80GB HBM3", State: gpu.StateOK, TotalBytes: 80 * gib, UsableBytes: 79 * gib, FreeBytes: free}
	}
	m := warmModel("m", 1)
	need, err := m.Size.Need(m.Model.Serving)
	if err != nil {
		t.Fatal(err)
	}
	certain := float64(need.TotalBytes()+need.OverheadMaxBytes+gib/8) / (79 * gib)
	open := float64(need.TotalBytes()+need.OverheadMaxBytes-gib/8) / (79 * gib)
	never := float64(need.TotalBytes()+need.OverheadMinBytes-gib/8) / (79 * gib)
	for _, tt := range []struct {
		name        string
		share       float64
		unallocated int
		label       string
		tight       int
	}{
		{"for certain", certain, 2, "2", 0},
		{"open", open, 2, "0", 2},
		{"open, one is given to a pod", open, 1, "0", 1},
		{"open, all are given to pods", open, 0, "0", 0},
		{"never", never, 2, "0", 0},
	} {
		m.Model.Serving.GPUMemoryUtilization = tt.share
		g := gpuFacts{Known: true, FreeKnown: true, Free: tt.unallocated, Devices: []gpu.Device{h100(0, 79*gib), h100(1, 79*gib)}}
		w := wordOf([]modelState{m}, g, nil)
		if got := labels([]modelState{m}, w)[FitsPrefix+"m"]; got != tt.label || w.Tight["m"] != tt.tight {
			t.Errorf("%s: label %q, %d more may start; want %q, %d", tt.name, got, w.Tight["m"], tt.label, tt.tight)
		}
		var s steady
		s.feed(time.Time{}, w, time.Minute)
		if s.now.Tight["m"] != tt.tight || !s.now.equal(w) {
			t.Errorf("%s: %+v is said of %+v", tt.name, s.now, w)
		}
	}
}
