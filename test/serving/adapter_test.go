//go:build e2e

package serving

import (
	"context"
	"fmt"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/cluster"
)

// The chart's HPA, by the Prometheus adapter with the rules that the README
// shows, without a KEDA: a queue grows, and replicas come; it ends, and they go
// after the window; the cache fills; Prometheus is away, and they stay.
func TestAdapter(t *testing.T) {
	address, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	objs := render(t, fmt.Sprintf(`
model: {name: %s, servedName: %s}
autoscaling:
  kind: hpa
  scaleDown: {stabilizationSeconds: %d, podsPerMinute: %d}
`, model, served, int(window.Seconds()), most))
	w := newWorld(t, address, nil)
	w.addNodes()
	rules := adapterConfig(t, read(t, repository(t), "charts", "vllm", "README.md"))
	w.keep(StartAdapter(t.Context(), w.cluster, w.built("STOKER_E2E_PROMETHEUS_ADAPTER"), "http://"+address, rules, t.TempDir()))
	w.feel(release, feeling{names: Since})
	w.apply(objs)
	w.waitReplicas(deployment, 1, time.Minute)

	t.Logf("%d requests wait", waiting)
	w.feel(release, feeling{queue: waiting, names: Since})
	w.grows(deployment, adapterGrew)
	w.bound(most)
	w.holds(deployment, most, 30*time.Second)

	t.Log("none wait any more")
	w.feel(release, feeling{names: Since})
	w.falls(deployment)

	t.Logf("the cache is %d%% full in every replica, by the old name of the metric, and none wait", cacheFull)
	w.feel(release, feeling{cache: cacheFull / 100.0, names: Before})
	w.grows(deployment, cacheGrew)

	t.Log("Prometheus goes away")
	w.stopPrometheus()
	w.waitScaling(deployment, false)
	w.holds(deployment, most, away)
	w.startPrometheus()
	w.waitScaling(deployment, true)
	w.holds(deployment, most, 30*time.Second)
	w.feel(release, feeling{names: Since})
	w.falls(deployment)
}

// waitScaling waits until an HPA says that it has numbers to go by, or that it
// has none.
func (w *world) waitScaling(name string, want bool) {
	w.Helper()
	err := cluster.WaitFor(w.Context(), fmt.Sprintf("ScalingActive of the HPA %s to be %t", name, want), func(ctx context.Context) (bool, error) {
		hpa, err := w.cluster.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range hpa.Status.Conditions {
			if c.Type == autoscalingv2.ScalingActive {
				return (c.Status == corev1.ConditionTrue) == want, nil
			}
		}
		return false, nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// grows waits until a Deployment has all replicas, which is to take as long as
// the page says at most.
func (w *world) grows(name string, limit time.Duration) {
	w.Helper()
	w.Logf("%s: %d replicas after %s, want at most %s", name, most, w.waitReplicas(name, most, limit).Round(time.Second), limit)
}

// falls waits until a Deployment that has all replicas, and whose load ends now,
// has one: after the window, and not before.
func (w *world) falls(name string) {
	w.Helper()
	ended := time.Now()
	w.holds(name, most, window-hpaSync)
	w.waitReplicas(name, 1, 2*hpaSync+slack)
	w.Logf("%s: 1 replica %s after the load ended, with a window of %s", name, time.Since(ended).Round(time.Second), window)
}
