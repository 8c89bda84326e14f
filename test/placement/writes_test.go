package placement

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
)

// BenchmarkWrites counts what real agents with default intervals write to the
// API server: while they pull, when replicas come, and when those are replaced
// and go. It takes about six minutes, most of them the agents' own patience.
func BenchmarkWrites(b *testing.B) {
	f := startCluster(b)
	f.namespace(system)
	f.release(coldSpace, "{}")
	f.rights()
	f.build()
	const agents, replicas = 3, 12
	hub := fetchertest.StartHub(b, fetchertest.HubOptions{BytesPerSecond: 2 << 20})
	models := fmt.Sprintf("models: [%s}, %s, priority: 1}]\nstore: {reserve: \"0\"}\n",
		f.repo(hub, "other", 32<<20, fetchertest.RepoOptions{}), f.repo(hub, model, 32<<20, fetchertest.RepoOptions{}))
	var machines []*machine
	fl := fleet{pool: "writes"}
	for i := range agents {
		m := f.startAgent(fmt.Sprintf("writes-%d", i), models)
		m.label(poolLabel, fl.pool)
		machines = append(machines, m)
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| in a cluster of %d agents | writes of the Node | of events |\n|---|---|---|\n", agents)
	before := make([]map[string]int, agents)
	count := func(what string) {
		var nodes, events []string
		for i, m := range machines {
			now := m.writes()
			nodes = append(nodes, strconv.Itoa(now["node"]-before[i]["node"]))
			events = append(events, strconv.Itoa(now["event"]-before[i]["event"]))
			before[i] = now
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", what, strings.Join(nodes, ", "), strings.Join(events, ", "))
	}
	everywhere := func(what, name, value string) {
		for _, m := range machines {
			m.waitNode(what+" on "+m.node, func(n *corev1.Node) bool { return n.Labels[agent.FitsPrefix+name] == value })
		}
	}
	for b.Loop() {
		everywhere("the first model to be warm", model, "8")
		everywhere("the second model to be warm", "other", "8")
		count("two models of 32 MB are pulled")
		f.create(coldSpace, "first", fl, replicas, nil)
		f.waitPods(coldSpace, "first", replicas, 0)
		f.fitsFollow(machines, "first")
		count(fmt.Sprintf("%d replicas come at once", replicas))
		f.create(coldSpace, "second", fl, replicas, nil)
		f.waitPods(coldSpace, "second", replicas, 0)
		f.clearNow(coldSpace, "first")
		f.fitsFollow(machines, "second")
		count("they are replaced by others")
		f.clearNow(coldSpace, "second")
		everywhere("all GPUs to be free", model, "8")
		count("those go")
	}
	report(b, "writes", "Each column has one number for each node. Default intervals; for comparison, a kubelet renews its Lease six times a\nminute.\n\n"+table.String())
}

// fitsFollow waits until each Node says how many GPUs the pods of an app have
// left.
func (f *fixture) fitsFollow(machines []*machine, app string) {
	f.Helper()
	held := map[string]int{}
	for _, p := range f.pods.of(coldSpace, app) {
		held[p.Spec.NodeName]++
	}
	for _, m := range machines {
		want := strconv.Itoa(perNode - held[m.node])
		m.waitNode("the label to follow the pods", func(n *corev1.Node) bool { return n.Labels[agent.FitsPrefix+model] == want })
	}
}

// clearNow deletes bare pods and waits until they are gone.
func (f *fixture) clearNow(namespace, app string) {
	f.Helper()
	f.clear(namespace, app, false)
}

// label adds a label to the machine's Node.
func (m *machine) label(key, value string) {
	m.Helper()
	err := cluster.WaitFor(m.Context(), "the label to be written", func(ctx context.Context) (bool, error) {
		n, err := m.client.CoreV1().Nodes().Get(ctx, m.node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		n.Labels[key] = value
		_, err = m.client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		return err == nil, err
	})
	if err != nil {
		m.Fatal(err)
	}
}
