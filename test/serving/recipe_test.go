//go:build e2e

package serving

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stoker-project/stoker/test/cluster"
)

// recipe is a Deployment and a ScaledObject as they are often written down.
// docs/autoscaling.md has what this test prints.
type recipe struct {
	name, query string
	// scaled is more of the ScaledObject's spec, trigger more of its trigger, and
	// metadata of the trigger's.
	scaled, trigger, metadata map[string]any
	// window is scaleDown's; negative: none is given.
	window int64
}

func (r recipe) objects(prometheus string) []*unstructured.Unstructured {
	labels := map[string]any{"app.kubernetes.io/instance": r.name}
	object := func(api, kind string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": api, "kind": kind, "metadata": map[string]any{"name": r.name, "namespace": namespace}, "spec": spec,
		}}
	}
	pods := object("apps/v1", "Deployment", map[string]any{
		"selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{
			"metadata": map[string]any{"labels": labels},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "vllm", "image": "vllm/vllm-openai"}}},
		},
	})
	metadata := map[string]any{"serverAddress": "http://" + prometheus, "query": r.query}
	trigger := map[string]any{"type": "prometheus", "metadata": metadata}
	spec := map[string]any{
		"scaleTargetRef": map[string]any{"name": r.name}, "pollingInterval": int64(5), "minReplicaCount": int64(1), "maxReplicaCount": int64(most),
		"triggers": []any{trigger},
	}
	if r.window >= 0 {
		spec["advanced"] = map[string]any{"horizontalPodAutoscalerConfig": map[string]any{"behavior": map[string]any{
			"scaleDown": map[string]any{"stabilizationWindowSeconds": r.window},
		}}}
	}
	for into, from := range map[*map[string]any]map[string]any{&metadata: r.metadata, &trigger: r.trigger, &spec: r.scaled} {
		for k, v := range from {
			(*into)[k] = v
		}
	}
	return []*unstructured.Unstructured{pods, object("keda.sh/v1alpha1", "ScaledObject", spec)}
}

// What people copy does what it does, and not what it is copied for.
func TestRecipe(t *testing.T) {
	address, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, address, nil)
	w.startKEDA()
	if _, err := w.cluster.AddNode(t.Context(), cluster.NodeSpec{Name: "node"}); err != nil {
		t.Fatal(err)
	}
	queue := func(name string) string { return fmt.Sprintf("vllm:num_requests_waiting{deployment=%q}", name) }
	few := map[string]any{"threshold": fmt.Sprint(queueTarget)}
	for _, r := range []recipe{
		{name: "cooldown", query: "sum(" + queue("cooldown") + ")", metadata: few, scaled: map[string]any{"cooldownPeriod": int64(cooldown)}, window: -1},
		{name: "mean", query: "sum(" + queue("mean") + ") / count(" + queue("mean") + ")", metadata: few, window: 0},
		{name: "vanished", query: "sum(" + queue("vanished") + ")", metadata: few, window: int64(vanishedWindow.Seconds())},
		{name: "share", query: `avg(vllm:kv_cache_usage_perc{deployment="share"})`, metadata: map[string]any{"threshold": fmt.Sprint(shareTarget)}, window: 0},
	} {
		w.feel(r.name, feeling{names: Since})
		w.apply(r.objects(address))
		w.waitReplicas(r.name, 1, time.Minute)
	}
	busy := feeling{queue: waiting, cache: cacheFull / 100.0, names: Since}
	for _, name := range []string{"cooldown", "mean", "vanished", "share"} {
		w.feel(name, busy)
	}
	// Each has all replicas for some moment; of the mean this moment is short.
	w.waitReplicas("mean", most, 3*time.Minute)
	t.Logf("mean: %d replicas for %d waiting requests, of which %d may wait for each", most, waiting, queueTarget)
	if back := w.waitFewer("mean", most, 3*time.Minute); back != 1 {
		t.Errorf("mean: from %d to %d replicas, want 1", most, back)
	}
	t.Logf("mean: 1 replica with %d requests still waiting: divided by replicas once in the query and once by the HPA", waiting)

	w.waitReplicas("cooldown", most, 3*time.Minute)
	w.waitReplicas("vanished", most, 3*time.Minute)
	w.feel("cooldown", feeling{names: Since})
	ended := time.Now()
	w.feel("vanished", feeling{queue: waiting, cache: cacheFull / 100.0, names: Renamed})
	w.holds("vanished", most, vanishedWindow-hpaSync)
	w.waitReplicas("vanished", 1, 2*hpaSync+slack)
	t.Logf("vanished: 1 replica with %d requests waiting, %s after the metric was renamed", waiting, time.Since(ended).Round(time.Second))

	w.waitReplicas("share", shareReplicas, time.Minute)
	w.holds("share", shareReplicas, time.Minute)
	t.Logf("share: %d replicas and no more, though the cache of each is %d%% full and %.1f is aimed at: AverageValue divided it", shareReplicas, cacheFull, shareTarget)

	w.holds("cooldown", most, time.Until(ended.Add(hpaDefaultWindow-hpaSync)))
	fell := w.waitFewer("cooldown", most, 2*hpaSync+slack)
	t.Logf("cooldown: %d replicas %s after the load ended, with cooldownPeriod %d", fell, time.Since(ended).Round(time.Second), cooldown)
}

// waitFewer waits until a Deployment is told to have fewer replicas than it had.
func (w *world) waitFewer(name string, had int, limit time.Duration) int {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	defer cancel()
	got := had
	err := cluster.WaitFor(ctx, fmt.Sprintf("fewer than %d replicas of %s", had, name), func(ctx context.Context) (bool, error) {
		var err error
		got, err = w.deployed(ctx, name)
		return err == nil && got < had, err
	})
	if err != nil {
		w.Fatal(err)
	}
	return got
}
