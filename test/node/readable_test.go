//go:build e2e && linux

package node_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var rounds = flag.Int("rounds", 7, "how often BenchmarkTimeToWeights measures")

// benchModel is about how many bytes the models of BenchmarkTimeToWeights have.
const benchModel = 1 << 30

// How long it takes from the creation of a pod until its container has opened every file of its model and read the first
// byte, on a node where the model is cold and then, another pod, where it is warm; and until the container of a pod
// without a model starts, for comparison. Each round has a model of its own, on the same node; the first is not counted.
func BenchmarkTimeToWeights(b *testing.B) {
	w := newWorld(b, 64<<20)
	list := values{tag: "e2e"}
	for round := range *rounds + 1 {
		name := benchName(round)
		w.model("team/"+name, uint64(round+1), benchModel)
		// The list wants it nowhere, so a node has it once a pod there names it.
		list.models = append(list.models, fmt.Sprintf("{name: %[1]s, source: 'hf://team/%[1]s', nodeSelector: {pool: none}}", name))
	}
	w.install(b, list)
	l := &life{world: w, list: list}
	wait(b, "the agent", func(ctx context.Context) (bool, error) {
		pod, err := l.agentOn(ctx, w.first)
		return err == nil && pod != nil && ready(pod), err
	})
	for b.Loop() {
		kinds := []string{"no model", "warm", "cold"}
		took := map[string][]float64{}
		var ratios, added []float64
		for round := range *rounds + 1 {
			name := benchName(round)
			cold := w.timeToWeights(b, name+"-cold", name, "read")
			warm := w.timeToWeights(b, name+"-warm", name, "read")
			floor := w.timeToWeights(b, name+"-floor", "", "start")
			w.deletePods(b)
			if round == 0 {
				continue
			}
			took["cold"], took["warm"], took["no model"] = append(took["cold"], cold), append(took["warm"], warm), append(took["no model"], floor)
			ratios, added = append(ratios, cold/warm), append(added, warm-floor)
		}
		var table strings.Builder
		for _, kind := range kinds {
			t := took[kind]
			fmt.Fprintf(&table, "%-10s median %.2f s, %.2f to %.2f\n", kind, median(t), slices.Min(t), slices.Max(t))
			b.ReportMetric(median(t), "s-"+strings.ReplaceAll(kind, " ", "-"))
		}
		pulling := median(took["cold"]) - median(took["warm"])
		b.Logf("a model of %d MiB, %d rounds:\n%scold/warm median %.2f, %.2f to %.2f; warm takes %.2f s longer than no model, cold %.2f s longer than warm: %.0f MB/s",
			benchModel>>20, *rounds, table.String(), median(ratios), slices.Min(ratios), slices.Max(ratios), median(added), pulling, benchModel/1e6/pulling)
		b.ReportMetric(median(ratios), "cold/warm")
	}
}

func benchName(round int) string { return fmt.Sprintf("bench-%d", round) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// timeToWeights creates a pod on the first node and returns the seconds until its weights could be read, or, without a
// model, until its program started.
func (w *world) timeToWeights(tb testing.TB, name, model, what string) float64 {
	tb.Helper()
	labels := map[string]string{"app": "bench"}
	if model != "" {
		labels["stoker.dev/model"] = model
	}
	pods := w.client.CoreV1().Pods("serving")
	created := time.Now()
	_, err := pods.Create(tb.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: podSpec(map[string]string{"pool": "large"}, what),
	}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	var s seen
	wait(tb, "pod "+name+" to be ready", func(ctx context.Context) (bool, error) {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil || !ready(pod) {
			return false, err
		}
		s, err = ask(ctx, pod)
		return err == nil, err
	})
	if model == "" {
		return s.Started.Sub(created).Seconds()
	}
	if s.Bytes < benchModel/2 {
		tb.Fatalf("pod %s read %d bytes", name, s.Bytes)
	}
	return s.Opened.Sub(created).Seconds()
}

// deletePods deletes the pods that were measured and waits until they are gone.
func (w *world) deletePods(tb testing.TB) {
	tb.Helper()
	pods := w.client.CoreV1().Pods("serving")
	if err := pods.DeleteCollection(tb.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		tb.Fatal(err)
	}
	wait(tb, "the pods to be gone", func(ctx context.Context) (bool, error) {
		left, err := pods.List(ctx, metav1.ListOptions{})
		return err == nil && len(left.Items) == 0, err
	})
}
