package shared

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
)

const (
	namespace = "stoker-system"
	release   = "rel"
	values    = `{models: [], volume: {mode: shared, shared: {source: {nfs: {server: nas, path: /models}}}}}`
	settings  = `
store: {reserve: "0"}
volume: {mode: shared, namespace: stoker-system, lease: rel-stoker-store, leaseDuration: 3s}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, heartbeat: 1s, verify: 500ms, retryMin: 200ms, retryMax: 2s, resync: 1s, timeout: 5s, grace: 1s, leave: 3s}
`
	leaseSeconds = 3
)

// fleet is a cluster whose agents share one directory.
type fleet struct {
	testing.TB
	cluster *cluster.Cluster
	hub     *fetchertest.Hub
	dir     string
	binary  string
	members []*member
	list    string
	// release is the chart's, settings are those of the agents beside the list.
	release, settings string
}

// member is one node's agent. Each has the store by a path of its own, as mounts
// have.
type member struct {
	*fleet
	node, config, store, kubeconfig string
	process                         *daemon.Process
	log                             *daemon.Log
}

var nodes atomic.Int32

func startCluster(tb testing.TB) *cluster.Cluster {
	tb.Helper()
	c, err := cluster.Start(tb.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Stop(); err != nil {
			tb.Error(err)
		}
	})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := c.Client().CoreV1().Namespaces().Create(tb.Context(), ns, metav1.CreateOptions{}); err != nil {
		tb.Fatal(err)
	}
	for release, values := range map[string]string{release: values, sealedRelease: sealedValues} {
		objs, err := charts.Render([]byte(values), release, namespace)
		if err != nil {
			tb.Fatal(err)
		}
		if err := charts.Apply(tb.Context(), c.RESTConfig(), objs); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

func build(tb testing.TB) string {
	tb.Helper()
	binary, err := daemon.Build(tb.Context(), tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return binary
}

// newFleet makes n nodes, a Hub and a store; it starts no agent.
func newFleet(tb testing.TB, c *cluster.Cluster, binary string, n int) *fleet {
	tb.Helper()
	return newFleetOf(tb, c, binary, n, release, settings)
}

func newFleetOf(tb testing.TB, c *cluster.Cluster, binary string, n int, release, settings string) *fleet {
	tb.Helper()
	f := &fleet{TB: tb, cluster: c, binary: binary, release: release, settings: settings, dir: filepath.Join(tb.TempDir(), "volume"), hub: fetchertest.NewHub(fetchertest.HubOptions{})}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	if err := f.hub.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.hub.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	// The Lease of an earlier fleet would have to run out.
	err := c.Client().CoordinationV1().Leases(namespace).Delete(tb.Context(), f.leaseName(), metav1.DeleteOptions{})
	if err != nil && !strings.Contains(err.Error(), "not found") {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	for range n {
		name := fmt.Sprintf("node-%d", nodes.Add(1))
		m := &member{fleet: f, node: name, config: filepath.Join(tb.TempDir(), "config.yaml"), store: filepath.Join(tb.TempDir(), "models")}
		f.members = append(f.members, m)
		if err := os.Symlink(f.dir, m.store); err != nil {
			tb.Fatal(err)
		}
		wg.Go(func() {
			if _, err := c.AddNode(tb.Context(), cluster.NodeSpec{Name: name, GPUs: 8}); err != nil {
				tb.Error(err)
				return
			}
			var err error
			if m.kubeconfig, err = c.AgentKubeconfig(tb.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: release + "-stoker", Node: name, Pod: "agent-" + name}); err != nil {
				tb.Error(err)
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	tb.Cleanup(func() {
		for _, m := range f.members {
			m.kill()
			if tb.Failed() && m.log != nil {
				tb.Logf("%s says %s; its log:\n%s", m.node, m.said(), m.log)
			}
			// What a dead agent's Node promises would hold up the next fleet's removals.
			if err := c.Client().CoreV1().Nodes().Delete(context.WithoutCancel(tb.Context()), m.node, metav1.DeleteOptions{}); err != nil {
				tb.Error(err)
			}
		}
	})
	return f
}

// models writes the list to every node.
func (f *fleet) models(names ...string) {
	f.Helper()
	f.list = "models:\n"
	for _, name := range names {
		f.list += fmt.Sprintf("- {name: %s, source: 'hf://acme/%s', endpoint: '%s', refresh: 1h}\n", name, name, f.hub.URL())
	}
	if len(names) == 0 {
		f.list = "models: []\n"
	}
	for _, m := range f.members {
		if err := os.WriteFile(m.config, []byte(f.list+f.settings), 0o644); err != nil {
			f.Fatal(err)
		}
	}
}

// push adds a model of so many bytes to the Hub.
func (f *fleet) push(name string, bytes int64) {
	f.Helper()
	f.hub.AddRepo("acme/"+name, fetchertest.RepoOptions{})
	weights := make([]byte, bytes)
	_, _ = rand.Read(weights) // it never fails
	tree := fetchertest.Tree{
		"config.json":       fetchertest.Bytes([]byte(`{"architectures":["LlamaForCausalLM"],"model_type":"llama","num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":2048}`)),
		"model.safetensors": fetchertest.Bytes(weights),
	}
	if _, err := f.hub.Push(f.Context(), "acme/"+name, "main", tree); err != nil {
		f.Fatal(err)
	}
}

func (m *member) start() {
	m.Helper()
	if m.log == nil {
		m.log = &daemon.Log{}
	}
	var err error
	m.process, err = daemon.Start(daemon.Options{Binary: m.binary, Config: m.config, Store: m.store, Node: m.node, Kubeconfig: m.kubeconfig, Log: m.log})
	if err != nil {
		m.Fatal(err)
	}
}

// kill ends it as a power cut of its machine would, as far as a process can.
func (m *member) kill() { m.end(syscall.SIGKILL) }

// stop ends it as a kubelet does.
func (m *member) stop() { m.end(syscall.SIGTERM) }

func (m *member) end(s syscall.Signal) {
	if m.process == nil {
		return
	}
	m.process.Signal(s)
	<-m.process.Done()
	m.process = nil
}

func (f *fleet) startAll() {
	f.Helper()
	for _, m := range f.members {
		m.start()
	}
}

func (f *fleet) leaseName() string { return f.release + "-stoker-store" }

func (f *fleet) lease() *coordinationv1.Lease {
	l, err := f.cluster.Client().CoordinationV1().Leases(namespace).Get(f.Context(), f.leaseName(), metav1.GetOptions{})
	if err != nil {
		return &coordinationv1.Lease{}
	}
	return l
}

// writer is the member that holds the Lease.
func (f *fleet) writer() *member {
	f.Helper()
	var found *member
	f.wait("a writer", func() bool {
		if l := f.lease(); l.Spec.HolderIdentity != nil {
			node, _, _ := strings.Cut(*l.Spec.HolderIdentity, "_")
			for _, m := range f.members {
				if m.node == node {
					found = m
				}
			}
		}
		return found != nil
	})
	return found
}

func (f *fleet) wait(what string, ok func() bool) {
	f.Helper()
	err := cluster.WaitFor(f.Context(), what, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		f.Fatal(err)
	}
}

// label is what a node says of a model.
func (m *member) label(name string) string {
	m.Helper()
	n, err := m.cluster.Client().CoreV1().Nodes().Get(m.Context(), m.node, metav1.GetOptions{})
	if err != nil {
		m.Fatal(err)
	}
	return n.Labels[agent.WarmPrefix+name]
}

func (f *fleet) waitLabels(name, value string) {
	f.Helper()
	f.wait(fmt.Sprintf("the label of %s to be %q on all nodes", name, value), func() bool {
		for _, m := range f.members {
			if m.label(name) != value {
				return false
			}
		}
		return true
	})
}

// sent is how many bytes of content the Hub has sent.
func (f *fleet) sent() int64 {
	var n int64
	for _, r := range f.hub.Requests(fetchertest.Match{}) {
		n += r.Bytes
	}
	return n
}

// check compares every node's labels with every byte of the store.
func (f *fleet) check() {
	f.Helper()
	s, err := store.OpenReadOnly(f.dir)
	if err != nil {
		f.Fatal(err)
	}
	good := map[string]error{}
	for _, m := range f.members {
		n, err := m.cluster.Client().CoreV1().Nodes().Get(m.Context(), m.node, metav1.GetOptions{})
		if err != nil {
			f.Fatal(err)
		}
		for key := range n.Labels {
			name, ok := strings.CutPrefix(key, agent.WarmPrefix)
			if !ok {
				continue
			}
			if _, judged := good[name]; !judged {
				good[name] = verify(f.Context(), s, name)
			}
			if good[name] != nil {
				f.Errorf("%s says that %s is warm: %v", m.node, name, good[name])
			}
		}
	}
}

func verify(ctx context.Context, s *store.Store, name string) error {
	m, err := s.Lookup(name)
	if err != nil {
		return err
	}
	res, err := s.Verify(ctx, m, nil)
	if err == nil && len(res.Problems) > 0 {
		err = fmt.Errorf("problems: %v", res.Problems)
	}
	return err
}

// since is how long ago, for logs.
func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }

// text is what the agent has logged so far.
func (m *member) text() string { return m.log.String() }

// said is the annotation, as far as it can be read when a test has ended.
func (m *member) said() string {
	n, err := m.cluster.Client().CoreV1().Nodes().Get(context.WithoutCancel(m.Context()), m.node, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	return n.Annotations[agent.StatusAnnotation]
}

// status is the annotation.
func (m *member) status() string {
	m.Helper()
	n, err := m.cluster.Client().CoreV1().Nodes().Get(m.Context(), m.node, metav1.GetOptions{})
	if err != nil {
		m.Fatal(err)
	}
	return n.Annotations[agent.StatusAnnotation]
}

func (m *member) unlabel(name string) {
	m.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:null}}}`, agent.WarmPrefix+name)
	if _, err := m.cluster.Client().CoreV1().Nodes().Patch(m.Context(), m.node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		m.Fatal(err)
	}
}

func verifyDir(f *fleet, name string) error {
	s, err := store.OpenReadOnly(f.dir)
	if err != nil {
		return err
	}
	return verify(f.Context(), s, name)
}

// watchLabels looks at every version of every Node from now on; the function that
// it returns tells which have lost the label in any of them.
func (f *fleet) watchLabels(name string) func() []string {
	f.Helper()
	ctx, cancel := context.WithCancel(f.Context())
	list, err := f.cluster.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		f.Fatal(err)
	}
	w, err := f.cluster.Client().CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		f.Fatal(err)
	}
	mine := map[string]bool{}
	for _, m := range f.members {
		mine[m.node] = true
	}
	done, lost := make(chan struct{}), map[string]bool{}
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if n, ok := e.Object.(*corev1.Node); ok && mine[n.Name] && n.Labels[agent.WarmPrefix+name] == "" {
				lost[n.Name] = true
			}
		}
	}()
	return func() []string {
		cancel()
		w.Stop()
		<-done
		return slices.Sorted(maps.Keys(lost))
	}
}

// waitWriterBegan waits until an agent has begun to write since then.
func (f *fleet) waitWriterBegan(then time.Time) {
	f.Helper()
	f.wait("a writer since the restart", func() bool {
		l := f.lease()
		if l.Spec.AcquireTime == nil || !l.Spec.AcquireTime.After(then) {
			return false
		}
		return strings.Contains(f.writer().text(), "write into the shared volume from now on")
	})
}
