package agent

import (
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
