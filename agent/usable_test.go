package agent

import (
	"testing"

	"github.com/stoker-project/stoker/gpu"
)

// A GPU that answers but can take no work is no capacity, whatever is free on it.
func TestBlockedGPUsDoNotCount(t *testing.T) {
	list := devices(79, 79, 40)
	list[0].Conditions = []gpu.Condition{{Type: gpu.ConditionExclusive, Blocks: true, Reason: "taken"}}
	list[2].Conditions = []gpu.Condition{{Type: gpu.ConditionRepairPending, Reason: "soon"}}
	g := gpuFacts{Known: true, Devices: list, Free: 3, FreeKnown: true}
	if whole := g.whole(); len(whole) != 2 || whole[0].Index != 1 || whole[1].Index != 2 {
		t.Errorf("whole() = %+v; want GPUs 1 and 2", whole)
	}
	if g.idle() != 1 {
		t.Errorf("idle() = %d; want 1", g.idle())
	}
	if g.sound() != 3 {
		t.Errorf("sound() = %d; want 3: what a process holds, a pod may hold", g.sound())
	}
	// GPU 0 is held by the one pod here: two are left, not one.
	pods := facts{PodsKnown: true, Pods: []pod{{GPUs: 1}}}
	if got := gpuFactsOf(answer[[]gpu.Device]{Known: true, Value: list}, pods, nodeView{GPUs: 3, GPUsKnown: true}); got.Free != 2 {
		t.Errorf("%d GPUs are given to no pod; want 2", got.Free)
	}
	list[1].Conditions = list[0].Conditions
	if got := g.freeGiB(); got != 40 {
		t.Errorf("freeGiB() = %d; want the 40 of the only GPU that takes work", got)
	}
}
