package placement

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/inject"
)

// serving is the namespace with the chart's default values.
const serving = "serving"

// What does not depend on chance, and nothing else: shares are measured by the
// benchmarks.
func TestPlacement(t *testing.T) {
	f := startCluster(t)
	f.namespace(fillers)
	f.release(serving, "{}")
	f.namespace(system)
	f.release(coldSpace, "{}")
	f.rights()
	f.build()
	for name, test := range map[string]func(*fixture){
		"every pod lands warm while there is room":      (*fixture).testAllWarm,
		"the rest goes to cold nodes when warm is full": (*fixture).testOverflow,
		"require waits for a warm node":                 (*fixture).testRequireWaits,
		"no pod where a gpu is held when required":      (*fixture).testHeldRequired,
		"no pod where a gpu is held when asked":         (*fixture).testHeldAsked,
		"no pod where a gpu is held while others fit":   (*fixture).testHeldPreferred,
		"a cold node pulls what a pod names before all": (*fixture).testPulledFirst,
		"the init container says why it cannot be had":  (*fixture).testRefused,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { test(f.in(t)) })
	}
}

// Bare pods, as Jobs and operators make them, and pods whose controllers'
// default spread is switched off: warm outweighs everything else that the
// scheduler scores, however full the warm nodes are.
func (f *fixture) testAllWarm() {
	fl := f.addFleet("room", 1,
		kind{count: 8, tier: agent.TierDisk, taken: -6}, kind{count: 3, tier: "ram", taken: -6}, kind{count: 25, taken: 1})
	room := fl.room(node.warm)
	bare := room / 2
	f.create(serving, "bare", fl, bare, nil)
	f.create(serving, "unspread", fl, room-bare, func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints = unspread() })
	for app, count := range map[string]int{"bare": bare, "unspread": room - bare} {
		pods := f.waitPods(serving, app, count, 0)
		if n := fl.landed(pods, node.warm); n != count {
			f.Errorf("%d of %d pods of %s landed warm though there was room for %d:\n%s", n, count, app, room, fl.byNode(pods))
		}
	}
}

// unspread is a constraint that no pod counts for: a pod that has a constraint
// gets no default ones.
func unspread() []corev1.TopologySpreadConstraint {
	return []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"spread": "off"}},
	}}
}

// First every warm GPU, then cold ones.
func (f *fixture) testOverflow() {
	const more = 20
	fl := f.addFleet("overflow", 2, kind{count: 6, tier: agent.TierDisk, taken: -6}, kind{count: 12, taken: -6})
	room := fl.room(node.warm)
	f.create(serving, "overflow", fl, room+more, nil)
	pods := f.waitPods(serving, "overflow", room+more, 0)
	if warm := fl.landed(pods, node.warm); warm != room {
		f.Errorf("%d of %d pods landed warm, where there was room for %d:\n%s", warm, len(pods), room, fl.byNode(pods))
	}
	for _, n := range fl.nodes {
		if got := fl.landed(pods, func(o node) bool { return o.name == n.name }); got > n.free {
			f.Errorf("%s has %d pods and %d free GPUs", n.name, got, n.free)
		}
	}
}

// A pod that requires a warm node waits, and starts when one becomes warm.
func (f *fixture) testRequireWaits() {
	const more = 5
	fl := f.addFleet("require", 3, kind{count: 2, tier: agent.TierDisk, taken: 4}, kind{count: 6, taken: 1})
	room := fl.room(node.warm)
	f.create(serving, "require", fl, room+more, func(p *corev1.Pod) {
		p.Annotations = map[string]string{inject.PlacementAnnotation: inject.Require}
	})
	pods := f.waitPods(serving, "require", room, more)
	if n := fl.landed(pods, node.warm); n != room {
		f.Errorf("%d of %d bound pods are on warm nodes:\n%s", n, room, fl.byNode(pods))
	}
	var becomes string
	for name, n := range fl.nodes {
		if !n.warm() {
			becomes = name
			break
		}
	}
	patch := `{"metadata":{"labels":{"` + agent.WarmPrefix + model + `":"disk","` + agent.FitsPrefix + model + `":"7"}}}`
	if _, err := f.client.CoreV1().Nodes().Patch(f.Context(), becomes, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		f.Fatal(err)
	}
	pods = f.waitPods(serving, "require", room+more, 0)
	if n := fl.landed(pods, func(n node) bool { return n.name == becomes }); n != more {
		f.Errorf("%d of %d pods went to %s:\n%s", n, more, becomes, fl.byNode(pods))
	}
}

// Kubernetes calls the GPUs free; their memory is not, and the agent says so.
func (f *fixture) testHeldRequired() {
	const more = 4
	fl := f.addFleet("held", 4,
		kind{count: 4, tier: agent.TierDisk, fits: fitsHeld, taken: 1}, kind{count: 3, tier: agent.TierDisk, taken: 5}, kind{count: 3, taken: 1})
	room := fl.room(node.fitting)
	f.create(serving, "held", fl, room+more, func(p *corev1.Pod) {
		p.Annotations = map[string]string{inject.PlacementAnnotation: inject.Require}
	})
	pods := f.waitPods(serving, "held", room, more)
	if n := fl.landed(pods, node.held); n > 0 {
		f.Errorf("%d pods are where no replica fits:\n%s", n, fl.byNode(pods))
	}
}

// With the annotation, and with nothing else required, pods keep away from
// where no replica fits, and still go where nothing is said of it: to nodes
// that are cold, or that no agent knows yet.
func (f *fixture) testHeldAsked() {
	fl := f.addFleet("asked", 5,
		kind{count: 4, tier: agent.TierDisk, fits: fitsHeld, taken: 1}, kind{count: 3, tier: agent.TierDisk, taken: 5}, kind{count: 2, fresh: true, taken: 1})
	room := fl.room(func(n node) bool { return !n.held() })
	f.create(serving, "asked", fl, room+2, func(p *corev1.Pod) {
		p.Annotations = map[string]string{inject.FitsAnnotation: inject.Require}
	})
	pods := f.waitPods(serving, "asked", room, 2)
	if n := fl.landed(pods, node.held); n > 0 {
		f.Errorf("%d pods are where no replica fits:\n%s", n, fl.byNode(pods))
	}
}

// Without any requirement they keep away as long as a replica fits on another
// warm node; among cold nodes they keep away from those without an idle GPU.
func (f *fixture) testHeldPreferred() {
	fl := f.addFleet("avoided", 6,
		kind{count: 5, tier: agent.TierDisk, fits: fitsHeld, taken: 1}, kind{count: 5, tier: agent.TierDisk, taken: -4}, kind{count: 8, taken: 1})
	room := fl.room(node.fitting)
	f.create(serving, "avoided", fl, room, nil)
	pods := f.waitPods(serving, "avoided", room, 0)
	if n := fl.landed(pods, node.fitting); n != room {
		f.Errorf("%d of %d pods are where a replica fits:\n%s", n, room, fl.byNode(pods))
	}
	fl = f.addFleet("idle", 7, kind{count: 6, fits: fitsHeld, taken: 1}, kind{count: 3, taken: -4}, kind{count: 3, fresh: true, taken: 1})
	room = fl.room(func(n node) bool { return !n.held() && !n.fresh })
	f.create(serving, "idle", fl, room, nil)
	pods = f.waitPods(serving, "idle", room, 0)
	if n := fl.landed(pods, func(n node) bool { return !n.held() && !n.fresh }); n != room {
		f.Errorf("%d of %d pods are on cold nodes with an idle GPU:\n%s", n, room, fl.byNode(pods))
	}
}
