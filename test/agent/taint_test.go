package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
)

// taint puts taints on the Node as whoever makes nodes does.
func (b *bench) taint(taints ...corev1.Taint) {
	b.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": taints}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := b.client.CoreV1().Nodes().Patch(b.Context(), b.node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
}

func taintKeys(n *corev1.Node) []string {
	var keys []string
	for _, t := range n.Spec.Taints {
		keys = append(keys, t.Key)
	}
	return keys
}

// The startup taint keeps pods off until the model is warm, goes then, and
// leaves every other taint where it is.
func testStartupTaint(t *testing.T, c *cluster.Cluster) {
	b := newBenchWithoutNode(t, c, nodeOf(t))
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{BytesPerSecond: 256 << 10})
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(9, 4<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Push(t.Context(), "org/first", "main", tree); err != nil {
		t.Fatal(err)
	}
	// The Node comes with them: else the scheduler may know it without.
	b.addNode(
		corev1.Taint{Key: "nvidia.com/gpu", Value: "present", Effect: corev1.TaintEffectNoSchedule},
		corev1.Taint{Key: agent.ColdTaint, Effect: corev1.TaintEffectNoSchedule},
		corev1.Taint{Key: "team", Value: "a", Effect: corev1.TaintEffectPreferNoSchedule},
	)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "early-" + b.node},
		Spec: corev1.PodSpec{
			Containers:   []corev1.Container{{Name: "vllm", Image: "vllm"}},
			NodeSelector: map[string]string{corev1.LabelHostname: b.node},
			Tolerations:  []corev1.Toleration{{Key: "nvidia.com/gpu", Operator: corev1.TolerationOpExists}},
		},
	}
	if _, err := b.client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.list(
		fmt.Sprintf("{name: first, source: 'hf://org/first', endpoint: '%s'}", hub.URL()),
		"{name: later, source: 'file:///there/is/none', priority: -1}",
	)
	b.start()
	b.wait("a pull under way", func(*corev1.Node) bool { return b.modelStatus("first").State == agent.StatePulling })
	if keys := taintKeys(b.get()); !slices.Contains(keys, agent.ColdTaint) {
		t.Errorf("lifted before the model is warm: %v", keys)
	}
	if p, err := b.client.CoreV1().Pods(namespace).Get(t.Context(), pod.Name, metav1.GetOptions{}); err != nil || p.Spec.NodeName != "" {
		t.Errorf("a pod was bound to a cold node: %v", err)
	}
	hub.SetBytesPerSecond(0)
	b.wait("the taint to go", func(n *corev1.Node) bool {
		cold := slices.Contains(taintKeys(n), agent.ColdTaint)
		if !cold && n.Labels[agent.WarmPrefix+"first"] == "" {
			t.Error("the taint went before the label came")
		}
		return !cold
	})
	if want, got := []string{"nvidia.com/gpu", "team"}, taintKeys(b.get()); !slices.Equal(got, want) {
		t.Errorf("the taints are %v, want %v", got, want)
	}
	b.waitEvent(agent.EventNodeWarm, func(e eventsv1.Event) bool { return e.Type == corev1.EventTypeNormal })
	err = cluster.WaitFor(t.Context(), "the pod to be bound", func(ctx context.Context) (bool, error) {
		p, err := b.client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		return err == nil && p.Spec.NodeName == b.node, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A model that cannot be had does not keep the node empty for ever.
func testStartupTaintTimeout(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.taint(corev1.Taint{Key: agent.ColdTaint, Effect: corev1.TaintEffectNoSchedule})
	b.config("models: [{name: never, source: 'file:///there/is/none'}]\nstartup: {timeout: 3s}" + intervals)
	b.start()
	b.wait("the taint to go", func(n *corev1.Node) bool { return len(n.Spec.Taints) == 0 })
	b.waitEvent(agent.EventNodeStillCold, func(e eventsv1.Event) bool {
		return e.Type == corev1.EventTypeWarning && strings.Contains(e.Note, "never")
	})
}
