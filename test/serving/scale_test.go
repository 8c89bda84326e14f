//go:build e2e

package serving

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// window is the stabilization window of the test's release: shorter than the
// chart's five minutes, and long enough to be seen.
const window = 60 * time.Second

// hpaSync is how often the controller-manager looks: its last look at a load that
// has ended may be so long before the end, and the window begins with that look.
const hpaSync = 15 * time.Second

// A queue grows, and replicas come, each on a warm node that fits; it ends, and
// they go after the window; Prometheus is away, or the metric renamed, and they
// stay.
func TestScaling(t *testing.T) {
	address, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	values := fmt.Sprintf(`
model: {name: %s, servedName: %s}
autoscaling:
  kind: keda
  keda: {serverAddress: "http://%s", pollingSeconds: 5}
  scaleDown: {stabilizationSeconds: %d, podsPerMinute: 4}
monitoring: {rules: {enabled: true}}
`, model, served, address, int(window.Seconds()))
	objs := render(t, values)
	rules, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, address, rules)
	w.addNodes()
	w.installStoker()
	definitions, err := charts.PrometheusOperatorCRDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.ApplyCRDs(t.Context(), w.cluster.RESTConfig(), definitions); err != nil {
		t.Fatal(err)
	}
	w.waitPolicy()
	w.feel(release, feeling{names: Since})
	w.apply(objs)
	w.waitReplicas(deployment, 1, time.Minute)

	t.Log("20 requests wait")
	w.feel(release, feeling{queue: 20, names: Since})
	t.Logf("4 replicas after %s", w.waitReplicas(deployment, 4, 2*time.Minute).Round(time.Second))
	w.bound(4)
	w.holds(deployment, 4, 30*time.Second)

	t.Log("none wait any more")
	w.feel(release, feeling{names: Since})
	ended := time.Now()
	w.holds(deployment, 4, window-hpaSync)
	w.waitReplicas(deployment, 1, 3*time.Minute)
	t.Logf("1 replica %s after the load ended, with a window of %s", time.Since(ended).Round(time.Second), window)

	t.Log("the cache is 90% full in every replica, and none wait")
	w.feel(release, feeling{cache: 0.9, names: Before})
	t.Logf("4 replicas after %s, by the old name of the metric", w.waitReplicas(deployment, 4, 6*time.Minute).Round(time.Second))
	w.bound(4)
	w.feel(release, feeling{queue: 15, cache: 0.1, names: Since})
	t.Logf("3 replicas for 15 requests after %s", w.waitReplicas(deployment, 3, 4*time.Minute).Round(time.Second))

	t.Log("Prometheus goes away")
	// Were it stopped before it has seen that the fourth pod is gone, it would show that pod for five minutes more.
	w.waitScraped(3)
	w.stopPrometheus()
	w.waitCondition(deployment, "Fallback", true)
	w.holds(deployment, 3, 2*window)
	w.startPrometheus()
	w.waitCondition(deployment, "Fallback", false)
	w.holds(deployment, 3, 30*time.Second)

	t.Log("the queue's metric is renamed, while 15 wait")
	w.feel(release, feeling{queue: 15, cache: 0.1, names: Renamed})
	renamed := time.Now()
	w.waitAlert("VLLMMetricsMissing")
	t.Logf("VLLMMetricsMissing fires %s after it was renamed", time.Since(renamed).Round(time.Second))
	if got, err := w.deployed(t.Context(), deployment); err != nil || got != 3 {
		t.Errorf("%d replicas when the alert fires, want the 3 that there were: %v", got, err)
	}
}

// Nodes as agents would label them.
const (
	warmLabel = "warm.stoker.dev/" + model
	fitsLabel = "fits.stoker.dev/" + model
	idleLabel = "gpu.stoker.dev/idle"
	zoneLabel = "topology.kubernetes.io/zone"
)

// addNodes has two warm nodes with room for two replicas each, a cold one with
// more room, and a warm one whose GPUs Kubernetes calls free and somebody uses.
func (w *world) addNodes() {
	w.Helper()
	for _, node := range []cluster.NodeSpec{
		{Name: "warm-a", GPUs: 2, Labels: map[string]string{zoneLabel: "a", warmLabel: "disk", fitsLabel: "2", idleLabel: "2"}},
		{Name: "warm-b", GPUs: 2, Labels: map[string]string{zoneLabel: "b", warmLabel: "disk", fitsLabel: "2", idleLabel: "2"}},
		{Name: "cold", GPUs: 8, Labels: map[string]string{zoneLabel: "a", idleLabel: "8"}},
		{Name: "held", GPUs: 8, Labels: map[string]string{zoneLabel: "b", warmLabel: "disk", fitsLabel: "0", idleLabel: "0"}},
	} {
		if _, err := w.cluster.AddNode(w.Context(), node); err != nil {
			w.Fatal(err)
		}
	}
}

// installStoker installs the policy by which one label is enough; its agents'
// DaemonSet finds no node here.
func (w *world) installStoker() {
	w.Helper()
	const system = "stoker-system"
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}
	if _, err := w.cluster.Client().CoreV1().Namespaces().Create(w.Context(), ns, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	objs, err := charts.Render([]byte("namespaces: ["+namespace+"]"), "stoker", system)
	if err != nil {
		w.Fatal(err)
	}
	w.apply(objs)
}

// waitPolicy waits until the API server has taken it up.
func (w *world) waitPolicy() {
	w.Helper()
	probe := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "probe", Labels: map[string]string{"stoker.dev/model": model}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	err := cluster.WaitFor(w.Context(), "the admission policy to be in force", func(ctx context.Context) (bool, error) {
		got, err := w.cluster.Client().CoreV1().Pods(namespace).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && len(got.Spec.InitContainers) == 1, err
	})
	if err != nil {
		w.Fatal(err)
	}
}

// bound waits until so many replicas are bound, and looks where.
func (w *world) bound(want int) {
	w.Helper()
	var nodes []string
	err := cluster.WaitFor(w.Context(), fmt.Sprintf("%d bound replicas", want), func(ctx context.Context) (bool, error) {
		list, err := w.cluster.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
		if err != nil {
			return false, err
		}
		nodes = nil
		for _, pod := range list.Items {
			if pod.Spec.NodeName != "" && pod.DeletionTimestamp == nil {
				nodes = append(nodes, pod.Spec.NodeName)
			}
		}
		if len(nodes) != want {
			return false, fmt.Errorf("%d are bound", len(nodes))
		}
		return true, nil
	})
	if err != nil {
		w.Fatal(err)
	}
	slices.Sort(nodes)
	w.Logf("bound to %q", nodes)
	for _, node := range nodes {
		if node != "warm-a" && node != "warm-b" {
			w.Errorf("a replica is bound to %s, while warm nodes had room: %q", node, nodes)
		}
	}
}

// waitScraped waits until Prometheus knows the queue of so many pods.
func (w *world) waitScraped(want int) {
	w.Helper()
	err := cluster.WaitFor(w.Context(), fmt.Sprintf("the queues of %d pods", want), func(ctx context.Context) (bool, error) {
		got, err := w.prom.Query(ctx, "vllm:num_requests_waiting")
		return err == nil && len(got) == want, err
	})
	if err != nil {
		w.Fatal(err)
	}
}

// waitAlert waits until an alert fires, for as long as it says itself and more.
func (w *world) waitAlert(name string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 8*time.Minute)
	defer cancel()
	err := cluster.WaitFor(ctx, name+" to fire", func(ctx context.Context) (bool, error) {
		rules, err := w.prom.Rules(ctx)
		if err != nil {
			return false, err
		}
		for _, r := range rules {
			if r.Name != name {
				continue
			}
			if r.State != "firing" {
				return false, fmt.Errorf("it is %s", r.State)
			}
			return true, nil
		}
		return false, fmt.Errorf("Prometheus has no such rule")
	})
	if err != nil {
		w.Fatal(err)
	}
}
