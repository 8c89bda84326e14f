package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/gpu"
)

func TestLeaks(t *testing.T) {
	// full has one GPU of 80 GiB with 70 GiB in use, beside an idle one.
	full := func(change func(*gpuFacts)) gpuFacts {
		list := devices(10, 79)
		list[0].UUID, list[1].UUID = "GPU-0", "GPU-1"
		g := gpuFacts{Known: true, Devices: list, FreeKnown: true}
		if change != nil {
			change(&g)
		}
		return g
	}
	leaked := full(nil)
	held := full(func(g *gpuFacts) { g.Held = true })
	unseen := full(func(g *gpuFacts) { g.FreeKnown = false })
	state := func(s gpu.State) gpuFacts { return full(func(g *gpuFacts) { g.Devices[0].State = s }) }
	small := full(func(g *gpuFacts) { g.Devices[0].UsedBytes = 4 * gib }) // 5%
	more := full(func(g *gpuFacts) { g.Devices[0].UsedBytes = 4*gib + 1 })
	cached := full(func(g *gpuFacts) { g.Devices[0].PageCacheBytes = 69 * gib })
	shared := full(func(g *gpuFacts) { g.Devices[0].UnifiedMemory = true })
	away := full(func(g *gpuFacts) { g.Devices = g.Devices[1:] })
	mig := full(func(g *gpuFacts) {
		g.Devices[0].State = gpu.StatePartitioned
		g.Devices[1] = gpu.Device{Index: 0, UUID: "MIG-2", MIG: &gpu.MIG{Index: 2}, State: gpu.StateOK, TotalBytes: 20 * gib, UsedBytes: 8 * gib}
	})
	dark := gpuFacts{}
	type step struct {
		minutes float64
		g       gpuFacts
		want    string
	}
	for name, steps := range map[string][]step{
		"found after five minutes, told once, and when it is over": {
			{0, leaked, ""},
			{4.9, leaked, ""},
			{5, leaked, "found GPU 0"},
			{6, leaked, ""},
			{7, small, "gone GPU 0"},
			{8, small, ""},
			{9, leaked, ""},
			{14, leaked, "found GPU 0"},
		},
		"a pod has it":                                                {{0, held, ""}, {60, held, ""}},
		"its pod went four minutes ago":                               {{0, held, ""}, {1, leaked, ""}, {5, leaked, ""}, {6, leaked, "found GPU 0"}},
		"a pod that comes begins it anew":                             {{0, leaked, ""}, {4, held, ""}, {5, leaked, ""}, {9, leaked, ""}, {10, leaked, "found GPU 0"}},
		"a pod that comes to it changes none":                         {{0, leaked, ""}, {5, leaked, "found GPU 0"}, {6, held, ""}, {7, leaked, ""}, {8, full(func(g *gpuFacts) { g.Devices[0].UsedBytes, g.Held = gib, true }), "gone GPU 0"}},
		"pods cannot be seen":                                         {{0, unseen, ""}, {60, unseen, ""}, {61, leaked, ""}},
		"the driver is away for a minute":                             {{0, leaked, ""}, {4, dark, ""}, {5, leaked, ""}, {10, leaked, "found GPU 0"}, {11, dark, ""}, {12, leaked, ""}, {13, small, "gone GPU 0"}},
		"page cache in the GPU's memory":                              {{0, cached, ""}, {60, cached, ""}, {61, leaked, ""}, {66, leaked, "found GPU 0"}, {67, cached, "gone GPU 0"}},
		"memory that the machine shares":                              {{0, shared, ""}, {60, shared, ""}},
		"found by an agent that took shared memory for the GPU's own": {{0, leaked, ""}, {5, leaked, "found GPU 0"}, {6, shared, "gone GPU 0"}},
		"the driver's own use":                                        {{0, small, ""}, {60, small, ""}},
		"a byte more than that":                                       {{0, more, ""}, {60, more, "found GPU 0"}},
		"a lost device":                                               {{0, state(gpu.StateLost), ""}, {60, state(gpu.StateLost), ""}},
		"lost while it is told":                                       {{0, leaked, ""}, {5, leaked, "found GPU 0"}, {6, state(gpu.StateLost), ""}, {7, leaked, ""}},
		"a device that is no longer there":                            {{0, leaked, ""}, {5, leaked, "found GPU 0"}, {6, away, "gone GPU 0"}},
		"MIG devices, not their GPU":                                  {{0, mig, ""}, {5, mig, "found GPU 0, MIG device 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var l leaks
			for _, s := range steps {
				now := noon.Add(time.Duration(s.minutes * float64(time.Minute)))
				found, gone := l.look(now, s.g, 5*time.Minute, Share{Percent: 5})
				got := ""
				for _, x := range found {
					got += "found " + x.device()
				}
				for _, x := range gone {
					got += "gone " + x.device()
				}
				if got != s.want {
					t.Errorf("after %v min: %q, want %q", s.minutes, got, s.want)
				}
			}
		})
	}
}

func TestLeaksRestore(t *testing.T) {
	want := []LeakStatus{
		{Index: 0, UUID: "GPU-0", Bytes: 70 * gib, Since: noon.Unix()},
		{Index: 1, MIG: "2", Bytes: 8 * gib, Since: noon.Unix()},
		{Index: 1, MIG: "10", Bytes: 8 * gib, Since: noon.Unix()},
	}
	status := NodeStatus{Version: StatusVersion, GPUs: GPUStatus{Known: true, Leaks: want}}
	text, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	var l leaks
	l.restore(string(text))
	if diff := cmp.Diff(want, l.list()); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	list := devices(10)
	list[0].UUID = "GPU-0"
	found, gone := l.look(noon, gpuFacts{Known: true, Devices: list, FreeKnown: true}, time.Minute, Share{Percent: 5})
	if len(found) != 0 || len(gone) != 2 || len(l.list()) != 1 {
		t.Errorf("%d found, %d gone, %d left; want what is still in use to stay", len(found), len(gone), len(l.list()))
	}
	for _, damaged := range []string{"", "{", "[]", `{"gpus":{"leaks":7}}`} {
		var l leaks
		if l.restore(damaged); len(l.list()) != 0 {
			t.Errorf("%q restored %v", damaged, l.list())
		}
	}
}
