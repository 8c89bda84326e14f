package placement

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/inject"
)

// rounds is how many fleets of each kind are measured, each made by another
// seed.
var rounds = flag.Int("rounds", 5, "fleets of each kind that BenchmarkShares measures")

// perRound is how many pods come at once, unless a scenario says otherwise. Warm
// nodes have room for all of them.
const perRound = 40

// weights are the values inject.weights that a namespace's policy has.
type weights struct{ warm, fits, ram, idle int }

func (w weights) namespace() string {
	return fmt.Sprintf("w%d-f%d-r%d-i%d", w.warm, w.fits, w.ram, w.idle)
}

func (w weights) String() string { return fmt.Sprintf("%d/%d/%d/%d", w.warm, w.fits, w.ram, w.idle) }

// measured are the weights that are compared; the first are the defaults.
func measured() []weights {
	return []weights{
		{warm: 100, fits: 100, ram: 10, idle: 1},
		{warm: 50, fits: 50, ram: 10, idle: 1},
		{warm: 100, fits: 100, ram: 50, idle: 1},
		{warm: 100, fits: 10, ram: 10, idle: 1},
		{warm: 100, ram: 10},
		{warm: 10, ram: 10},
		{warm: 100, ram: 50},
		{warm: 100},
	}
}

// scenario is a fleet and what comes to it.
type scenario struct {
	name  string
	fleet string
	// count is how many pods come; 0: perRound.
	count int
	// replicas makes them pods of a Deployment; else they are bare.
	replicas bool
	change   func(*corev1.PodSpec, string)
	// fits gives pods the annotation.
	fits bool
	// good is where pods should be.
	good func(node) bool
}

// fleetKinds are the fleets: warm nodes have more room than pods come. In few
// they come close to each other; in ended all warm nodes say that none fits.
func fleetKinds() map[string][]kind {
	return map[string][]kind{
		"disk":  {{count: 12, tier: agent.TierDisk, taken: -4}, {count: 24, taken: -4}},
		"ram":   {{count: 9, tier: agent.TierDisk, taken: -4}, {count: 3, tier: "ram", taken: -4}, {count: 24, taken: -4}},
		"held":  {{count: 12, tier: agent.TierDisk, taken: -4}, {count: 6, tier: agent.TierDisk, fits: fitsHeld, taken: 1}, {count: 18, taken: -4}},
		"few":   {{count: 4, tier: agent.TierDisk, taken: 1}, {count: 32, taken: -4}},
		"ended": {{count: 12, tier: agent.TierDisk, fits: fitsHeld, taken: -4}, {count: 24, taken: -4}},
		"cold":  {{count: 24, taken: -4}, {count: 12, fits: fitsHeld, taken: 1}},
	}
}

func scenarios() []scenario {
	ownSpread := func(key string) func(*corev1.PodSpec, string) {
		return func(s *corev1.PodSpec, app string) {
			s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			}}
		}
	}
	prefersZone := func(s *corev1.PodSpec, _ string) {
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 50, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone-0"},
				}}},
			}},
		}}
	}
	cold := func(n node) bool { return !n.held() }
	return []scenario{
		{name: "bare pods", fleet: "disk", good: node.warm},
		{name: "bare pods, some nodes `ram`", fleet: "ram", good: node.warm},
		{name: "bare pods that prefer a zone with weight 50", fleet: "disk", change: prefersZone, good: node.warm},
		{name: "Deployment, its spread switched off", fleet: "disk", replicas: true, good: node.warm, change: func(s *corev1.PodSpec, _ string) { s.TopologySpreadConstraints = unspread() }},
		{name: "Deployment, default spread", fleet: "disk", replicas: true, good: node.warm},
		{name: "Deployment, default spread, some nodes `ram`", fleet: "ram", replicas: true, good: node.warm},
		{name: "Deployment of 8, default spread, 4 warm nodes", fleet: "few", count: 8, replicas: true, good: node.warm},
		{name: "Deployment of 16, default spread, 4 warm nodes", fleet: "few", count: 16, replicas: true, good: node.warm},
		{name: "Deployment of 24, default spread, 4 warm nodes", fleet: "few", count: 24, replicas: true, good: node.warm},
		{name: "Deployment of 24, its spread switched off, 4 warm nodes", fleet: "few", count: 24, replicas: true, good: node.warm, change: func(s *corev1.PodSpec, _ string) { s.TopologySpreadConstraints = unspread() }},
		{name: "Deployment, spread over hosts, maxSkew 1", fleet: "disk", replicas: true, change: ownSpread(corev1.LabelHostname), good: node.warm},
		{name: "Deployment, spread over hosts, maxSkew 1, some nodes `ram`", fleet: "ram", replicas: true, change: ownSpread(corev1.LabelHostname), good: node.warm},
		{name: "Deployment, spread over zones, maxSkew 1", fleet: "disk", replicas: true, change: ownSpread(corev1.LabelTopologyZone), good: node.warm},
		{name: "bare pods, GPUs held on a third of warm nodes: warm and fitting", fleet: "held", good: node.fitting},
		{name: "Deployment, default spread, the same", fleet: "held", replicas: true, good: node.fitting},
		{name: "bare pods, all warm nodes say that none fits: warm", fleet: "ended", good: node.warm},
		{name: "the same, with `stoker.dev/fits: require`", fleet: "ended", good: node.warm, fits: true},
		{name: "bare pods, no node warm, GPUs held on a third: elsewhere", fleet: "cold", good: cold},
	}
}

// BenchmarkShares measures which share of pods lands where it should, for
// every scenario and all weights, and says so as a table; -update writes it to
// docs/placement.md.
func BenchmarkShares(b *testing.B) {
	f := startCluster(b)
	f.namespace(fillers)
	for _, w := range measured() {
		f.release(w.namespace(), fmt.Sprintf("{weights: {warm: %d, fits: %d, ram: %d, idle: %d}}", w.warm, w.fits, w.ram, w.idle))
	}
	fleets := map[string][]fleet{}
	for name, kinds := range fleetKinds() {
		for seed := range *rounds {
			fleets[name] = append(fleets[name], f.addFleet(fmt.Sprintf("%s-%d", name, seed), uint64(seed), kinds...)) //nolint:gosec // Not negative.
		}
	}
	m := f.newMarker()
	var table strings.Builder
	fmt.Fprintf(&table, "| pods | %s |\n|---|%s\n", joined(measured(), weights.String), strings.Repeat("---|", len(measured())))
	for b.Loop() {
		for _, s := range scenarios() {
			var cells []string
			for _, w := range measured() {
				var shares []float64
				for _, fl := range fleets[s.fleet] {
					shares = append(shares, f.share(s, w, fl))
					m.move()
				}
				cells = append(cells, percent(shares))
			}
			fmt.Fprintf(&table, "| %s | %s |\n", s.name, strings.Join(cells, " | "))
			b.Logf("%s: %s", s.name, strings.Join(cells, ", "))
		}
	}
	report(b, "shares", fmt.Sprintf("Weights are `warm/fits/ram/idle`. Unless the row says otherwise, %d pods come at once. Each cell\nis the mean of %d fleets of 36 nodes with 8 GPUs each, in 3 zones, and the worst fleet in parentheses where it differs.\n\n%s", perRound, *rounds, table.String()))
}

func joined[T any](all []T, text func(T) string) string {
	var out []string
	for _, v := range all {
		out = append(out, text(v))
	}
	return strings.Join(out, " | ")
}

// percent is the mean, and the least.
func percent(shares []float64) string {
	sum := 0.0
	for _, s := range shares {
		sum += s
	}
	mean, least := fmt.Sprintf("%.0f%%", 100*sum/float64(len(shares))), fmt.Sprintf("%.0f%%", 100*slices.Min(shares))
	if mean == least {
		return mean
	}
	return mean + " (" + least + ")"
}

// share lets the pods of a scenario come to a fleet, says which share of them
// is where it should be, and takes them away.
func (f *fixture) share(s scenario, w weights, fl fleet) float64 {
	f.Helper()
	const app = "measured"
	namespace, count := w.namespace(), s.count
	if count == 0 {
		count = perRound
	}
	spec := podSpec()
	spec.NodeSelector = map[string]string{poolLabel: fl.pool}
	if s.change != nil {
		s.change(&spec, app)
	}
	if s.replicas {
		replicas := int32(count) //nolint:gosec // It is small.
		labels := map[string]string{"app": app, agent.ModelLabel: model}
		d := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: app},
			Spec: appsv1.DeploymentSpec{
				Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
			},
		}
		if _, err := f.client.AppsV1().Deployments(namespace).Create(f.Context(), d, metav1.CreateOptions{}); err != nil {
			f.Fatal(err)
		}
	} else {
		f.create(namespace, app, fl, count, func(p *corev1.Pod) {
			p.Spec = spec
			if s.fits {
				p.Annotations = map[string]string{inject.FitsAnnotation: inject.Require}
			}
		})
	}
	pods := f.waitPods(namespace, app, count, 0)
	good := float64(fl.landed(pods, s.good)) / float64(count)
	f.clear(namespace, app, s.replicas)
	return good
}

// clear deletes an app, and returns when the API server has none of its pods.
func (f *fixture) clear(namespace, app string, replicas bool) {
	f.Helper()
	ctx, now := f.Context(), *metav1.NewDeleteOptions(0)
	if replicas {
		foreground := metav1.DeletePropagationForeground
		if err := f.client.AppsV1().Deployments(namespace).Delete(ctx, app, metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
			f.Fatal(err)
		}
	}
	f.waitGone(namespace, app, now)
}
