//go:build e2e

package serving

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// system is where Stoker's release is, whose account its agents have.
const (
	system  = "stoker-system"
	account = "stoker"
)

// zoneLabel is what the chart spreads replicas over.
const zoneLabel = "topology.kubernetes.io/zone"

// machine is a Node with a real agent, and what the agent is to say of it.
type machine struct {
	name, zone string
	// gpus is how many Kubernetes knows of; the board has eight, of which so many
	// have memory that nobody uses.
	gpus, free int
	// wanted: Stoker's list has the model for this node.
	wanted bool
}

// machines are two warm ones with room for two replicas each, a cold one with
// more room, and a warm one whose GPUs Kubernetes calls free and somebody uses.
var machines = []machine{
	{name: "warm-a", zone: "a", gpus: 2, free: 2, wanted: true},
	{name: "warm-b", zone: "b", gpus: 2, free: 2, wanted: true},
	{name: "cold", zone: "a", gpus: 8, free: 8},
	{name: "held", zone: "b", gpus: 8, free: 0, wanted: true},
}

// board is the agent's spec of a simulated one.
func (m machine) board() string {
	const gpus = 8
	spec := "simulated:dgxh200"
	for i := m.free; i < gpus; i++ {
		spec += fmt.Sprintf(",free.%d=1GiB", i)
	}
	return spec
}

// labels are those that the agent is to write; "": it is not to be there.
func (m machine) labels() map[string]string {
	labels := map[string]string{agent.WarmPrefix + model: "", agent.FitsPrefix + model: "", agent.IdleLabel: fmt.Sprint(m.free)}
	if m.wanted {
		labels[agent.WarmPrefix+model], labels[agent.FitsPrefix+model] = agent.TierDisk, fmt.Sprint(m.free)
	}
	return labels
}

// addNodes has a Node and a real agent for each machine: it pulls the model from
// a stand-in of the Hub, and labels its Node. It returns when all labels are as
// they should be.
func (w *world) addNodes() {
	w.Helper()
	w.installStoker()
	binary := buildStoker(w.T)
	hub := fetchertest.StartHub(w, fetchertest.HubOptions{})
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(7, 8<<20, 2))
	if err != nil {
		w.Fatal(err)
	}
	revision, err := hub.Push(w.Context(), served, "main", tree)
	if err != nil {
		w.Fatal(err)
	}
	config := fmt.Sprintf(`
models:
- {name: %s, source: 'hf://%s@%s', endpoint: '%s', nodeSelector: {wanted: "true"}}
store: {reserve: "0"}
intervals: {gpu: 1s, gpuRise: 1s, progress: 1s}
`, model, served, revision, hub.URL())
	for _, m := range machines {
		w.startAgent(m, binary, config)
	}
	for _, m := range machines {
		w.waitLabels(m)
	}
}

func (w *world) startAgent(m machine, binary, config string) {
	w.Helper()
	ctx := w.Context()
	node := cluster.NodeSpec{Name: m.name, GPUs: m.gpus, Labels: map[string]string{zoneLabel: m.zone, "wanted": fmt.Sprint(m.wanted)}}
	if _, err := w.cluster.AddNode(ctx, node); err != nil {
		w.Fatal(err)
	}
	kubeconfig, err := w.cluster.AgentKubeconfig(ctx, cluster.AgentPod{Namespace: system, ServiceAccount: account, Node: m.name, Pod: "agent-" + m.name})
	if err != nil {
		w.Fatal(err)
	}
	dir := w.TempDir()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		w.Fatal(err)
	}
	p := &Programs{}
	w.keep(p, p.run(binary, dir, nil, "agent", "--config", path, "--store", filepath.Join(dir, "store"),
		"--node-name", m.name, "--gpus", m.board(), "--kubeconfig", kubeconfig, "--listen", "127.0.0.1:0"))
}

// waitLabels waits until a Node says what is true of its machine.
func (w *world) waitLabels(m machine) {
	w.Helper()
	want := m.labels()
	err := cluster.WaitFor(w.Context(), fmt.Sprintf("the labels of %s to be %v", m.name, want), func(ctx context.Context) (bool, error) {
		node, err := w.cluster.Client().CoreV1().Nodes().Get(ctx, m.name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for key, value := range want {
			if node.Labels[key] != value {
				return false, fmt.Errorf("they are %v, and the annotation is %s", node.Labels, node.Annotations[agent.StatusAnnotation])
			}
		}
		return true, nil
	})
	if err != nil {
		w.Fatal(err)
	}
	var said []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if want[key] != "" {
			said = append(said, key+"="+want[key])
		}
	}
	w.Logf("the agent of %s says %s", m.name, strings.Join(said, " "))
}

// installStoker installs agents' account, and the policy by which one label is
// enough; its DaemonSet finds no node here, agents are started without it.
func (w *world) installStoker() {
	w.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}
	if _, err := w.cluster.Client().CoreV1().Namespaces().Create(w.Context(), ns, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	objs, err := charts.Render([]byte("namespaces: ["+namespace+"]\nsweeper: {enabled: false}"), "stoker", system)
	if err != nil {
		w.Fatal(err)
	}
	w.apply(objs)
	w.waitPolicy()
}

// waitPolicy waits until the API server has taken it up.
func (w *world) waitPolicy() {
	w.Helper()
	probe := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "probe", Labels: map[string]string{agent.ModelLabel: model}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	err := cluster.WaitFor(w.Context(), "the admission policy to be in force", func(ctx context.Context) (bool, error) {
		got, err := w.cluster.Client().CoreV1().Pods(namespace).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && len(got.Spec.InitContainers) == 1, err
	})
	if err != nil {
		w.Fatal(err)
	}
}
