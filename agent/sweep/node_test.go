package sweep

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
)

// mixed is a Node with keys of an agent, of people in the same domain, and of
// others.
func mixed() *metav1.PartialObjectMetadata {
	wrote := metav1.NewTime(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))
	later := metav1.NewTime(wrote.Add(time.Hour))
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "gpu-1", UID: "u1", ResourceVersion: "7",
		Labels: map[string]string{
			"warm.stoker.dev/a": "disk", "rev.stoker.dev/a": "0123", "fits.stoker.dev/a": "1", "gpu.stoker.dev/idle": "8",
			"stoker.dev/pool": "x", "other.stoker.dev/a": "x", "warm.stoker.dev.example.com/a": "x", "xwarm.stoker.dev/a": "x", "team": "a",
		},
		Annotations: map[string]string{"stoker.dev/status": "{}", "stoker.dev/note": "x", "note": "x"},
		ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: agent.FieldManager, Time: &wrote}, {Manager: "kubelet", Time: &later}, {Manager: agent.FieldManager},
		},
	}}
}

func TestNodeOf(t *testing.T) {
	want := node{
		Name: "gpu-1", UID: "u1", Version: "7", Wrote: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
		Labels:      []string{"fits.stoker.dev/a", "gpu.stoker.dev/idle", "rev.stoker.dev/a", "warm.stoker.dev/a"},
		Annotations: []string{"stoker.dev/status"},
	}
	if diff := cmp.Diff(want, nodeOf(mixed())); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	m, ok := littleNode(mixed()).(*metav1.PartialObjectMetadata)
	if !ok {
		t.Fatal("the cache keeps something else")
	}
	want.Labels = want.Labels[:1] // one is enough to know that some are there
	if diff := cmp.Diff(want, nodeOf(m)); diff != "" {
		t.Errorf("of what the cache keeps, -want +got\n%s", diff)
	}
	if len(m.Labels) != 1 || len(m.Annotations) != 1 || m.Annotations["stoker.dev/status"] != "" || len(m.ManagedFields) != 1 {
		t.Errorf("the cache keeps more than that: %v", m)
	}
	other := mixed()
	other.Annotations[agent.StatusAnnotation] = `{"models": [], "release": "stoker-system/rel"}`
	if kept, ok := littleNode(other).(*metav1.PartialObjectMetadata); !ok || nodeOf(kept).Release != "stoker-system/rel" {
		t.Errorf("the cache forgets the release: %v", kept)
	}
}

// The body of a removal holds nulls and what it must be held against, and
// nothing else.
func TestRemoval(t *testing.T) {
	n := nodeOf(mixed())
	for _, pinned := range []bool{true, false} {
		body, err := n.removal(pinned)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]map[string]any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]map[string]any{"metadata": {
			"uid":         "u1",
			"labels":      map[string]any{"fits.stoker.dev/a": nil, "gpu.stoker.dev/idle": nil, "rev.stoker.dev/a": nil, "warm.stoker.dev/a": nil},
			"annotations": map[string]any{"stoker.dev/status": nil},
		}}
		if pinned {
			want["metadata"]["resourceVersion"] = "7"
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pinned %v: -want +got\n%s", pinned, diff)
		}
	}
	body, err := node{UID: "u1", Labels: []string{"warm.stoker.dev/a"}}.removal(false)
	if err != nil || string(body) != `{"metadata":{"labels":{"warm.stoker.dev/a":null},"uid":"u1"}}` {
		t.Errorf("%s, %v", body, err)
	}
}

func TestPodOf(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p1", Labels: map[string]string{"a": "b"}}}
	p.Spec.NodeName = "gpu-1"
	p.Spec.Containers = []corev1.Container{{Name: "agent", Env: []corev1.EnvVar{{Name: "TOKEN", Value: "x"}}}}
	for _, c := range []struct {
		conditions []corev1.PodCondition
		want       pod
	}{
		{nil, pod{UID: "p1", Node: "gpu-1"}},
		{[]corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at}}, pod{UID: "p1", Node: "gpu-1"}},
		{[]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at}}, pod{UID: "p1", Node: "gpu-1", Ready: true, Since: at.Time}},
		{[]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionUnknown, LastTransitionTime: at}}, pod{UID: "p1", Node: "gpu-1", Since: at.Time}},
	} {
		p.Status.Conditions = c.conditions
		kept, ok := littlePod(p).(*corev1.Pod)
		if !ok || len(kept.Spec.Containers) != 0 || len(kept.Labels) != 0 {
			t.Fatalf("the cache keeps %v", kept)
		}
		if diff := cmp.Diff(c.want, podOf(kept)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}

func TestSamePods(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	a, b := pod{UID: "a", Since: at}, pod{UID: "b", Since: at}
	if !samePods([]pod{a, b}, []pod{b, a}) || !samePods(nil, nil) {
		t.Error("the order counts")
	}
	for _, other := range [][]pod{nil, {a}, {a, {UID: "b", Since: at.Add(time.Second)}}, {a, {UID: "b", Since: at, Ready: true}}, {a, {UID: "c", Since: at}}} {
		if samePods([]pod{a, b}, other) {
			t.Errorf("%v is taken for the same", other)
		}
	}
}
