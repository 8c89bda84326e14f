package agent

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/stoker-project/stoker/gpu"
)

// what pods hold of four GPUs with nothing on them.
func TestGPUFacts(t *testing.T) {
	request := func(name corev1.ResourceName, n string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{name: resource.MustParse(n)}}}
	}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := request(gpuResource, "1")
	sidecar.RestartPolicy = &always
	a := func(phase corev1.PodPhase, containers ...corev1.Container) pod {
		return podOf(&corev1.Pod{Status: corev1.PodStatus{Phase: phase}, Spec: corev1.PodSpec{Containers: containers}})
	}
	partitioned := devices(79, 79, 79, 79)
	partitioned[3].State = gpu.StatePartitioned
	lost := devices(79, 79, 79, 79)
	lost[0].State, lost[0].FreeBytes = gpu.StateLost, 0
	single := map[string]string{migStrategyLabel: "single"}
	for _, c := range []struct {
		name    string
		devices []gpu.Device
		pods    []pod
		node    nodeView
		free    int
		held    bool
		fits    int
	}{
		{"nobody", devices(79, 79, 79, 79), nil, nodeView{GPUs: 4, GPUsKnown: true}, 4, false, 4},
		{"no device plugin", devices(79, 79, 79, 79), nil, nodeView{}, 4, false, 4},
		{"a pod without", devices(79, 79, 79, 79), []pod{a(corev1.PodRunning, corev1.Container{})}, nodeView{GPUs: 4, GPUsKnown: true}, 4, false, 4},
		{"bound, not started", devices(79, 79, 79, 79), []pod{a(corev1.PodPending, request(gpuResource, "2"))}, nodeView{GPUs: 4, GPUsKnown: true}, 2, true, 2},
		{"loading", devices(79, 79, 60, 79), []pod{a(corev1.PodRunning, request(gpuResource, "1"))}, nodeView{GPUs: 4, GPUsKnown: true}, 3, true, 3},
		{"state unknown to the API server", devices(79, 79, 79, 79), []pod{a(corev1.PodUnknown, request(gpuResource, "1"))}, nodeView{GPUs: 4, GPUsKnown: true}, 3, true, 3},
		{
			"completed and failed", devices(79, 79, 79, 79),
			[]pod{a(corev1.PodSucceeded, request(gpuResource, "2")), a(corev1.PodFailed, request(gpuResource, "2"))},
			nodeView{GPUs: 4, GPUsKnown: true},
			4, false, 4,
		},
		{
			"init containers need more than the others", devices(79, 79, 79, 79),
			[]pod{podOf(&corev1.Pod{Spec: corev1.PodSpec{
				Containers:     []corev1.Container{request(gpuResource, "1")},
				InitContainers: []corev1.Container{sidecar, request(gpuResource, "2")},
			}})},
			nodeView{GPUs: 4, GPUsKnown: true},
			1, true, 1,
		},
		{"MIG devices are no whole GPUs", devices(79, 79, 79, 79), []pod{a(corev1.PodRunning, request("nvidia.com/mig-1g.5gb", "3"))}, nodeView{GPUs: 4, GPUsKnown: true}, 4, true, 4},
		{"a GPU in MIG mode", partitioned, nil, nodeView{GPUs: 3, GPUsKnown: true}, 3, false, 3},
		{"every GPU counted as MIG devices", partitioned[3:], nil, nodeView{GPUs: 7, GPUsKnown: true}, 0, false, 0},
		{"each GPU shared by four, three shares given", devices(79, 79, 79, 79), []pod{a(corev1.PodRunning, request(gpuResource, "3"))}, nodeView{GPUs: 16, GPUsKnown: true}, 1, true, 1},
		{"shares under their own name", devices(79, 79, 79, 79), []pod{a(corev1.PodRunning, request("nvidia.com/gpu.shared", "1"))}, nodeView{}, 4, true, 4},
		{"the device plugin calls two unhealthy", devices(79, 79, 79, 79), nil, nodeView{GPUs: 2, GPUsKnown: true}, 2, false, 2},
		{"one is lost, and the device plugin has not seen it", lost, nil, nodeView{GPUs: 4, GPUsKnown: true}, 3, false, 3},
		{"more given than there are", devices(79), []pod{a(corev1.PodRunning, request(gpuResource, "4"))}, nodeView{GPUs: 1, GPUsKnown: true}, 0, true, 0},
		{
			"a resource claim may be a GPU", devices(79),
			[]pod{podOf(&corev1.Pod{Spec: corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu"}}}})},
			nodeView{},
			1, true, 1,
		},
		{"slices as nvidia.com/gpu, by their label", sliced(2, 4), nil, nodeView{GPUs: 8, GPUsKnown: true, Labels: single}, 8, false, 8},
		{"slices as nvidia.com/gpu, by their number", sliced(2, 4), []pod{a(corev1.PodRunning, request(gpuResource, "3"))}, nodeView{GPUs: 8, GPUsKnown: true}, 5, true, 5},
		{"the plugin calls a slice unhealthy", sliced(2, 4), nil, nodeView{GPUs: 7, GPUsKnown: true, Labels: single}, 7, false, 7},
		{"slices that are too small", sliced(2, 8), nil, nodeView{GPUs: 16, GPUsKnown: true, Labels: single}, 16, false, 0},
		{"GPUs in MIG mode as nvidia.com/gpu", sliced(2, 4), nil, nodeView{GPUs: 2, GPUsKnown: true}, 0, false, 0},
		{"slices under names of their own", sliced(2, 4), nil, nodeView{GPUs: 0, GPUsKnown: true, Labels: map[string]string{migStrategyLabel: "mixed"}}, 0, false, 0},
		{"slices and no device plugin", sliced(2, 4), nil, nodeView{}, 0, false, 0},
		{"one GPU is not in MIG mode", append(sliced(1, 4), devices(79)...), nil, nodeView{GPUs: 1, GPUsKnown: true, Labels: single}, 1, false, 1},
		{"memory that is in use without a pod", devices(79, 3, 3, 79), nil, nodeView{GPUs: 4, GPUsKnown: true}, 4, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := gpuFactsOf(answer[[]gpu.Device]{Known: true, Value: c.devices}, facts{Pods: c.pods, PodsKnown: true}, c.node)
			if g.Free != c.free || g.Held != c.held {
				t.Errorf("%d are free and held is %v, want %d and %v", g.Free, g.Held, c.free, c.held)
			}
			m := warmModel("m", 1)
			if got := wordOf([]modelState{m}, g, nil).Fits["m"]; got != c.fits {
				t.Errorf("%d replicas fit, want %d", got, c.fits)
			}
		})
	}
}

// sliced are GPUs of 80 GiB in MIG mode, each split into so many idle MIG devices.
func sliced(gpus, each int) []gpu.Device {
	var out []gpu.Device
	for i := range gpus {
		parent := fmt.Sprintf("GPU-%d", i)
		out = append(out, gpu.Device{Index: i, UUID: parent, State: gpu.StatePartitioned, TotalBytes: 80 * gib, UsableBytes: 80 * gib, FreeBytes: 79 * gib})
		memory := uint64(80 * gib / each)
		for slot := range each {
			out = append(out, gpu.Device{
				Index: i, UUID: fmt.Sprintf("MIG-%d-%d", i, slot), State: gpu.StateOK, MIG: &gpu.MIG{ParentUUID: parent, Index: slot},
				TotalBytes: memory, UsableBytes: memory, FreeBytes: memory,
			})
		}
	}
	return out
}

// MIG devices do not work together, so a replica of several GPUs fits on none.
func TestSlicesTakeReplicasOfOneGPU(t *testing.T) {
	node := nodeView{GPUs: 8, GPUsKnown: true, Labels: map[string]string{migStrategyLabel: "single"}}
	g := gpuFactsOf(answer[[]gpu.Device]{Known: true, Value: sliced(2, 4)}, facts{PodsKnown: true}, node)
	for tp, want := range map[int]int{1: 8, 2: 0} {
		m := warmModel("m", tp)
		if got := wordOf([]modelState{m}, g, nil).Fits["m"]; got != want {
			t.Errorf("%d replicas of %d GPUs fit; want %d", got, tp, want)
		}
	}
	if w := wordOf(nil, g, nil); w.Count != 8 || w.Idle != 8 || w.FreeGiB != 20 || w.TotalBytes != 20*gib {
		t.Errorf("%+v; want eight devices of 20 GiB", w)
	}
}
