package fleet

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
)

var four = time.Date(2026, 5, 1, 16, 0, 0, 0, time.UTC)

// largeNode is a Node with n warm models of which the annotation has kept, and the
// Lease that has all of them and one that failed.
func largeNode(t *testing.T, n, kept int) (*corev1.Node, *coordinationv1.Lease) {
	t.Helper()
	one := 1
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gpu-1", Labels: map[string]string{agent.FreeGiBLabel: "76", agent.IdleLabel: "1"}, Annotations: map[string]string{}}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "stoker-status.gpu-1", Annotations: map[string]string{}}}
	lease.Spec.HolderIdentity = &node.Name
	whole := agent.NodeStatus{Version: 1, Time: four, GPUs: agent.GPUStatus{Known: true, Count: 2, Idle: 1, FreeGiB: 76}, Store: agent.StoreStatus{Known: true}, List: agent.ListStatus{Models: n + 1}}
	owned := map[string]map[string]struct{}{"f:" + agent.FreeGiBLabel: {}, "f:" + agent.IdleLabel: {}}
	for i := range n {
		m := agent.ModelStatus{Name: fmt.Sprintf("m-%04d", i), State: agent.StateWarm, Tier: agent.TierDisk, Revision: strings.Repeat("ab", 20), Source: "hf://o/m", Wanted: true, Fits: &one}
		whole.Models = append(whole.Models, m)
		for key, v := range map[string]string{agent.WarmPrefix: "disk", agent.RevPrefix: "abababababab", agent.FitsPrefix: "1"} {
			node.Labels[key+m.Name] = v
			owned["f:"+key+m.Name] = map[string]struct{}{}
		}
	}
	said := whole
	said.Models, said.Omitted, said.More = whole.Models[:kept], n+1-kept, "leases/stoker/stoker-status.gpu-1"
	whole.Models = append(whole.Models, agent.ModelStatus{Name: "z-failed", State: agent.StateFailed, Wanted: true, Reason: "the Hub says no", Hint: "accept the licence"})
	fields, err := json.Marshal(map[string]any{"f:metadata": map[string]any{"f:labels": owned}})
	if err != nil {
		t.Fatal(err)
	}
	node.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: agent.FieldManager, FieldsV1: metav1.NewFieldsV1(string(fields))}}
	node.Annotations[agent.StatusAnnotation] = text(t, said)
	lease.Annotations[agent.StatusAnnotation] = packed(t, whole)
	return node, lease
}

func text(t *testing.T, s agent.NodeStatus) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func packed(t *testing.T, s agent.NodeStatus) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text(t, s))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// TestLabelsCountWhereTheAnnotationHasNoRoom: without the Lease, the agent's own label
// is what it is.
func TestLabelsCountWhereTheAnnotationHasNoRoom(t *testing.T) {
	for _, n := range []int{50, 200, 500, 2000} {
		node, _ := largeNode(t, n, 40)
		f := Read([]corev1.Node{*node}, four)
		if len(f.Models) != n {
			t.Fatalf("%d models of %d", len(f.Models), n)
		}
		for _, m := range f.Models {
			if m.Warm != 1 || m.Wanted != 1 || m.Fits != 1 || m.States[agent.StateWarm] != 1 {
				t.Fatalf("%d models: %+v", n, m)
			}
			e, err := f.Explain("gpu-1", m.Name)
			if err != nil {
				t.Fatal(err)
			}
			if !e.Warm || !strings.Contains(e.Why, "is warm on gpu-1") || strings.Contains(e.Why, "does not know") || !strings.Contains(e.Do, "1 replica could start here now") {
				t.Fatalf("%s of %d: %s / %s", m.Name, n, e.Why, e.Do)
			}
		}
		e, err := f.Explain("gpu-1", "z-failed")
		if err != nil || !strings.Contains(e.Why, "left out of the annotation") || !strings.Contains(e.Do, "leases in the namespace stoker") {
			t.Errorf("a cold one that was left out: %s / %s, %v", e.Why, e.Do, err)
		}
		codes := f.Nodes[0].codes()
		if len(codes) != 1 || codes[0] != TroubleOmitted {
			t.Errorf("troubles: %v", f.Nodes[0].Troubles)
		}
		var out strings.Builder
		if err := f.Write(&out, View{}); err != nil || !strings.Contains(out.String(), fmt.Sprintf("%d of %d", n, n)) || strings.Contains(out.String(), "label only") {
			t.Errorf("status: %v\n%s", err, out.String())
		}
	}
}

// TestForeignLabelCountsNot: a label that another set is nobody's word, though the
// annotation left some out.
func TestForeignLabelCountsNot(t *testing.T) {
	node, _ := largeNode(t, 100, 40)
	node.Labels[agent.WarmPrefix+"by-hand"] = "disk"
	node.ManagedFields = append(node.ManagedFields, metav1.ManagedFieldsEntry{Manager: "kubectl-label", FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:warm.stoker.dev/by-hand":{}}}}`)})
	f := Read([]corev1.Node{*node}, four)
	e, err := f.Explain("gpu-1", "by-hand")
	if err != nil || e.Warm || !strings.Contains(e.Why, "set by kubectl-label") {
		t.Errorf("%s / %s, %v", e.Why, e.Do, err)
	}
}

// TestCompleteReadsTheRest: with the Lease nothing is missing; one that is older, of
// another node or broken never overrules label or annotation.
func TestCompleteReadsTheRest(t *testing.T) {
	node, lease := largeNode(t, 500, 40)
	complete(node, leasedOf(lease))
	f := Read([]corev1.Node{*node}, four)
	if n := f.Nodes[0]; n.OmittedModels != 0 || len(n.Troubles) != 0 || len(n.Models) != 501 {
		t.Errorf("%d models, %d omitted, %v", len(n.Models), n.OmittedModels, n.Troubles)
	}
	e, err := f.Explain("gpu-1", "z-failed")
	if err != nil || !strings.Contains(e.Why, "the Hub says no") || !strings.Contains(e.Do, "Accept the licence") {
		t.Errorf("%s / %s, %v", e.Why, e.Do, err)
	}
	for name, change := range map[string]func(*corev1.Node, *coordinationv1.Lease){
		"of another node": func(_ *corev1.Node, l *coordinationv1.Lease) { l.Spec.HolderIdentity = new("gpu-2") },
		"not packed":      func(_ *corev1.Node, l *coordinationv1.Lease) { l.Annotations[agent.StatusAnnotation] = "{}" },
		"no word": func(_ *corev1.Node, l *coordinationv1.Lease) {
			l.Annotations[agent.StatusAnnotation] = packed(t, agent.NodeStatus{})
		},
		"older, and a label came since": func(_ *corev1.Node, l *coordinationv1.Lease) {
			whole := agent.NodeStatus{Version: 1, Time: four.Add(-time.Hour)}
			for i := range 500 {
				whole.Models = append(whole.Models, agent.ModelStatus{Name: fmt.Sprintf("m-%04d", i), State: agent.StatePulling, Wanted: true})
			}
			l.Annotations[agent.StatusAnnotation] = packed(t, whole)
		},
	} {
		node, lease := largeNode(t, 500, 40)
		change(node, lease)
		complete(node, leasedOf(lease))
		f := Read([]corev1.Node{*node}, four)
		warm := 0
		for _, m := range f.Models {
			warm += m.Warm
		}
		if warm != 500 || len(f.Nodes[0].disagreements()) > 0 {
			t.Errorf("%s: %d of 500 warm, %v", name, warm, f.Nodes[0].disagreements())
		}
	}
}

// leasedOf is what is kept of a Lease.
func leasedOf(lease *coordinationv1.Lease) leased {
	r := rests{listed: map[string]map[string]leased{lease.Namespace: {}}}
	r.take(lease)
	return r.listed[lease.Namespace][lease.Name]
}
