//go:build e2e

package serving

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// A queue grows, and replicas come, each on a warm node that fits; it ends, and
// they go after the window; Prometheus is away, or the metric renamed, and they
// stay.
func TestScaling(t *testing.T) {
	address, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// paused is what a person sets for an upgrade of the release, and takes back.
	values := func(paused bool) string {
		return fmt.Sprintf(`
model: {name: %s, servedName: %s}
autoscaling:
  kind: keda
  keda: {serverAddress: "http://%s", pollingSeconds: 5, paused: %t}
  scaleDown: {stabilizationSeconds: %d, podsPerMinute: %d}
monitoring: {rules: {enabled: true}}
`, model, served, address, paused, int(window.Seconds()), most)
	}
	objs := render(t, values(false))
	rules, err := RulesFile(objs)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, address, rules)
	w.startKEDA()
	w.addNodes()
	definitions, err := charts.PrometheusOperatorCRDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.ApplyCRDs(t.Context(), w.cluster.RESTConfig(), definitions); err != nil {
		t.Fatal(err)
	}
	w.feel(release, feeling{names: Since})
	w.apply(objs)
	w.waitReplicas(deployment, 1, time.Minute)

	t.Logf("%d requests wait", waiting)
	w.feel(release, feeling{queue: waiting, names: Since})
	w.grows(deployment, queueGrew)
	w.bound(most)
	w.holds(deployment, most, 30*time.Second)

	t.Log("none wait any more")
	w.feel(release, feeling{names: Since})
	w.falls(deployment)

	t.Logf("paused, and %d requests wait", waiting)
	w.apply(render(t, values(true)))
	w.waitCondition(deployment, "Paused", true)
	if _, err := w.cluster.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(t.Context(), deployment, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the README says that there is no HPA while the ScaledObject is paused: %v", err)
	}
	w.feel(release, feeling{queue: waiting, names: Since})
	w.holds(deployment, 1, pausedHeld)
	t.Log("not paused any more")
	w.apply(objs)
	w.waitCondition(deployment, "Paused", false)
	w.grows(deployment, queueGrew)
	w.feel(release, feeling{names: Since})
	w.falls(deployment)

	t.Logf("the cache is %d%% full in every replica, by the old name of the metric, and none wait", cacheFull)
	w.feel(release, feeling{cache: cacheFull / 100.0, names: Before})
	w.grows(deployment, cacheGrew)
	w.bound(most)
	w.feel(release, feeling{queue: fewer * queueTarget, cache: 0.1, names: Since})
	t.Logf("%d replicas for %d requests after %s", fewer, fewer*queueTarget, w.waitReplicas(deployment, fewer, window+2*hpaSync+slack).Round(time.Second))

	t.Log("Prometheus goes away")
	// Were it stopped before it has seen that the fourth pod is gone, it would show that pod for five minutes more.
	w.waitScraped(fewer)
	w.stopPrometheus()
	w.waitCondition(deployment, "Fallback", true)
	w.holds(deployment, fewer, away)
	w.startPrometheus()
	w.waitCondition(deployment, "Fallback", false)
	w.holds(deployment, fewer, 30*time.Second)

	t.Logf("the queue's metric is renamed, while %d wait", fewer*queueTarget)
	w.feel(release, feeling{queue: fewer * queueTarget, cache: 0.1, names: Renamed})
	renamed := time.Now()
	w.waitAlert("VLLMMetricsMissing")
	took := time.Since(renamed)
	t.Logf("VLLMMetricsMissing fires %s after it was renamed", took.Round(time.Second))
	if took < alertAfter || took > alertAfter+slack {
		t.Errorf("it fired after %s, want %s", took, alertAfter)
	}
	if got, err := w.deployed(t.Context(), deployment); err != nil || got != fewer {
		t.Errorf("%d replicas when the alert fires, want the %d that there were: %v", got, fewer, err)
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
		if !slices.ContainsFunc(machines, func(m machine) bool { return m.name == node && m.wanted && m.free > 0 }) {
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
