//go:build e2e

package serving

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stoker-project/stoker/test/cluster"
)

// An HPA on CPU beside KEDA on the queue, with the same load. With the CPU that
// the chart requests, it never sees that a replica is full; with one core, it
// takes the first request for a full one.
func TestCPU(t *testing.T) {
	address, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, address, nil)
	w.startKEDA()
	w.startMetricsServer()
	const roomy, tight, queue = "roomy", "tight", "queue"
	all := []string{roomy, tight, queue}
	for name, cores := range map[string]string{roomy: chartCPU, tight: "1"} {
		w.apply(onCPU(name, cores))
	}
	w.apply(recipe{
		name: queue, query: `sum(vllm:num_requests_waiting{deployment="queue"})`, metadata: map[string]any{"threshold": fmt.Sprint(queueTarget)}, window: -1,
	}.objects(address))
	feel := func(f feeling) {
		f.names = Since
		for _, name := range all {
			w.feel(name, f)
		}
	}
	feel(feeling{})
	for _, name := range all {
		w.waitReplicas(name, 1, time.Minute)
	}
	t.Logf("idle: CPU is at %d%% and %d%%", w.waitCPU(roomy, 0, 2), w.waitCPU(tight, 0, 5))

	feel(feeling{running: 1, cache: 0.01})
	t.Logf("1 request is served: CPU is at %d%%", w.waitCPU(roomy, cpuOfOne, cpuOfOne+1))

	t.Logf("%d requests are served, of the %d that one replica takes, and none wait", most, maxRunning)
	feel(feeling{running: most, cache: 0.02})
	t.Logf("%s: %d replicas after %s", tight, most, w.waitReplicas(tight, most, 5*time.Minute).Round(time.Second))
	for _, name := range []string{roomy, queue} {
		w.holds(name, 1, hpaSync)
	}

	t.Logf("the batch is full, and %d requests wait", waiting)
	feel(feeling{running: most * maxRunning, queue: waiting, cache: 0.99})
	t.Logf("%s: %d replicas after %s", queue, most, w.waitReplicas(queue, most, 3*time.Minute).Round(time.Second))
	few := w.waitCPU(roomy, cpuOfFull, cpuOfFull)
	t.Logf("%s: CPU is at %d%%", roomy, few)
	w.holds(roomy, 1, time.Minute)

	t.Logf("%d requests wait", many)
	feel(feeling{running: most * maxRunning, queue: many, cache: 0.99})
	w.holds(roomy, 1, cpuHeld)
	if got := w.waitCPU(roomy, cpuOfFull, cpuOfFull); got != few {
		t.Errorf("with %d waiting CPU is at %d%%, with %d at %d%%", waiting, few, many, got)
	}
	for _, name := range []string{tight, queue} {
		if got, err := w.deployed(t.Context(), name); err != nil || got != most {
			t.Errorf("%s has %d replicas, want %d: %v", name, got, most, err)
		}
	}
	t.Logf("%s: still 1 replica after %s, at a target of %d%%", roomy, cpuHeld, cpuTarget)
}

// onCPU is a Deployment whose container requests so many cores, and an HPA on
// what share of them it uses.
func onCPU(name, cores string) []*unstructured.Unstructured {
	pods := recipe{name: name, window: -1}.objects("")[0]
	containers := []any{map[string]any{
		"name": "vllm", "image": "vllm/vllm-openai", "resources": map[string]any{"requests": map[string]any{"cpu": cores}},
	}}
	if err := unstructured.SetNestedSlice(pods.Object, containers, "spec", "template", "spec", "containers"); err != nil {
		panic(err) // the recipe's Deployment is not one
	}
	return []*unstructured.Unstructured{pods, {Object: map[string]any{
		"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
		"metadata": map[string]any{"name": name, "namespace": namespace},
		"spec": map[string]any{
			"scaleTargetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
			"minReplicas":    int64(1), "maxReplicas": int64(most),
			"metrics": []any{map[string]any{"type": "Resource", "resource": map[string]any{
				"name": "cpu", "target": map[string]any{"type": "Utilization", "averageUtilization": int64(cpuTarget)},
			}}},
		},
	}}}
}

// startMetricsServer has it read this world's stand-in for a kubelet, which is
// that of one Node.
func (w *world) startMetricsServer() {
	w.Helper()
	node, err := w.cluster.AddNode(w.Context(), cluster.NodeSpec{Name: "node", CPU: "64"})
	if err != nil {
		w.Fatal(err)
	}
	err = cluster.WaitFor(w.Context(), "the Node to have an address", func(ctx context.Context) (bool, error) {
		nodes := w.cluster.Client().CoreV1().Nodes()
		fresh, err := nodes.Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		fresh.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
		_, err = nodes.UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
		return err == nil, err
	})
	if err != nil {
		w.Fatal(err)
	}
	w.keep(StartMetricsServer(w.Context(), w.cluster, w.built("STOKER_E2E_METRICS_SERVER"), w.kubelet.Address(), w.TempDir()))
}

// waitCPU waits until an HPA sees a share of the requested CPU in use that is
// between these two, both in percent, and returns it.
func (w *world) waitCPU(name string, least, greatest int32) int32 {
	w.Helper()
	got := int32(-1)
	err := cluster.WaitFor(w.Context(), fmt.Sprintf("the HPA %s to see between %d%% and %d%% of CPU", name, least, greatest), func(ctx context.Context) (bool, error) {
		hpa, err := w.cluster.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, m := range hpa.Status.CurrentMetrics {
			if m.Resource != nil && m.Resource.Current.AverageUtilization != nil {
				if got = *m.Resource.Current.AverageUtilization; got >= least && got <= greatest {
					return true, nil
				}
				return false, fmt.Errorf("it sees %d%%", got)
			}
		}
		return false, fmt.Errorf("it sees none: %v", hpa.Status.Conditions)
	})
	if err != nil {
		w.Fatal(err)
	}
	return got
}
