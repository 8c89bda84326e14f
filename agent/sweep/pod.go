package sweep

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pod is what is kept of an agent's pod.
type pod struct {
	UID   types.UID
	Node  string
	Ready bool
	// Since is when Ready last changed; zero if nobody has said.
	Since time.Time
}

func podOf(p *corev1.Pod) pod {
	out := pod{UID: p.UID, Node: p.Spec.NodeName}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Ready, out.Since = c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	return out
}

// samePods says whether two looks at a node saw the same pods in the same
// states.
func samePods(a, b []pod) bool {
	byUID := func(x, y pod) int { return strings.Compare(string(x.UID), string(y.UID)) }
	equal := func(x, y pod) bool {
		return x.UID == y.UID && x.Node == y.Node && x.Ready == y.Ready && x.Since.Equal(y.Since)
	}
	return slices.EqualFunc(slices.SortedFunc(slices.Values(a), byUID), slices.SortedFunc(slices.Values(b), byUID), equal)
}
