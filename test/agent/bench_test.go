package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/file"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
)

const (
	namespace = "stoker-system"
	release   = "rel"
	account   = release + "-stoker"
	// intervals make a step of a test short.
	intervals = `
store: {reserve: "0"}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, heartbeat: 1s, verify: 500ms, retryMin: 200ms, retryMax: 2s, resync: 1s, timeout: 5s, grace: 1s}
`
)

// startCluster starts a control plane with the chart's account and rights.
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
	objs, err := charts.Render([]byte("models: []"), release, namespace)
	if err != nil {
		tb.Fatal(err)
	}
	if err := charts.Apply(tb.Context(), c.RESTConfig(), objs); err != nil {
		tb.Fatal(err)
	}
	return c
}

// bench is one Node with an agent's store, configuration and rights.
type bench struct {
	*testing.T
	cluster    *cluster.Cluster
	client     kubernetes.Interface
	node       string
	dir        string
	kubeconfig string
	gpus       string
	devices    *board
	log        *daemon.Log
	// attempts, patience and bounds are how long a pull waits for its source; without,
	// it tries once.
	attempts int
	patience time.Duration
	bounds   httpsource.Bounds
	mu       sync.Mutex
	drivers  map[string]fetcher.Driver // of Hubs, by endpoint
	// dial leads to pods; nil: there are none to ask.
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	stop func()
	// onRemove is called before a model leaves the store.
	onRemove func(name string)
}

// newBench makes a Node and everything beside the agent itself.
func newBench(t *testing.T, c *cluster.Cluster) *bench {
	t.Helper()
	b := newBenchWithoutNode(t, c, nodeOf(t))
	b.addNode()
	return b
}

// nodeOf is the name of a test's own Node.
func nodeOf(t *testing.T) string {
	t.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
}

func newBenchWithoutNode(t *testing.T, c *cluster.Cluster, node string) *bench {
	t.Helper()
	b := &bench{T: t, cluster: c, client: c.Client(), node: node, dir: t.TempDir(), gpus: "simulated:dgxh200", log: &daemon.Log{}, drivers: map[string]fetcher.Driver{}, stop: func() {}}
	b.onRemove = func(name string) {
		if v, ok := b.labels()[agent.WarmPrefix+name]; ok {
			b.Errorf("%s is removed while the API server still says warm: %s", name, v)
		}
	}
	return b
}

func (b *bench) addNode(taints ...corev1.Taint) {
	b.Helper()
	if _, err := b.cluster.AddNode(b.Context(), cluster.NodeSpec{Name: b.node, GPUs: 8, Labels: map[string]string{"pool": "gpu"}, Taints: taints}); err != nil {
		b.Fatal(err)
	}
}

// model writes a small model of its own and returns its source.
func (b *bench) model(name string, seed uint64) string {
	b.Helper()
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: seed, Bare: true})
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(b.dir, "sources", name)
	for path, content := range tree {
		target := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			b.Fatal(err)
		}
		data, err := io.ReadAll(content.Reader())
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return "file://" + dir
}

// list writes the configuration: the given entries and the short intervals.
func (b *bench) list(entries ...string) {
	b.Helper()
	b.config("models: [" + strings.Join(entries, ", ") + "]" + intervals)
}

func (b *bench) config(text string) {
	b.Helper()
	tmp := b.configPath() + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Rename(tmp, b.configPath()); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) configPath() string { return filepath.Join(b.dir, "config.yaml") }
func (b *bench) storePath() string  { return filepath.Join(b.dir, "store") }

// checkedStore calls back before a model leaves the store.
type checkedStore struct {
	*store.Store
	onRemove func(name string)
}

func (s checkedStore) Remove(ctx context.Context, name string) error {
	s.onRemove(name)
	return s.Store.Remove(ctx, name)
}

// start runs an agent in this process with the rights of the chart's pod on
// this node, and returns it. The test, or b.stop, ends it.
func (b *bench) start() *agent.Agent {
	b.Helper()
	if b.kubeconfig == "" {
		var err error
		b.kubeconfig, err = b.cluster.AgentKubeconfig(b.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: b.node, Pod: "agent-" + b.node})
		if err != nil {
			b.Fatal(err)
		}
	}
	kube, err := clientcmd.BuildConfigFromFlags("", b.kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(b.storePath())
	if err != nil {
		b.Fatal(err)
	}
	cfg, err := agent.LoadConfig(b.configPath(), s.AgentFile(agent.LastGoodFile))
	if err != nil {
		b.Fatal(err)
	}
	devices := &board{}
	b.devices = devices
	b.board(b.gpus)
	logger := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	admission := agent.NewAdmission(s.Usage, cfg.Store)
	a, err := agent.New(agent.Options{
		Config: cfg, ConfigPath: b.configPath(), NodeName: b.node, Version: "test", Kube: kube,
		Store: checkedStore{Store: s, onRemove: b.onRemove}, Admission: admission, Devices: devices, Logger: logger, Dial: b.dial,
		Puller: fetcher.New(fetcher.Options{Store: s, Drivers: fetcher.Drivers{
			fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return file.New(), nil },
			fetcher.SchemeHub:  b.hubDriver,
		}, Logger: logger, Attempts: max(b.attempts, 1), Patience: b.patience, Yield: true, Admit: admission.Admit}),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		err := <-done
		if err = errors.Join(err, devices.Close()); err != nil {
			b.Errorf("run: %v", err)
		}
	})
	b.Cleanup(func() {
		b.stop()
		if b.Failed() {
			b.Logf("the agent's log:\n%s", b.log.String())
		}
	})
	return a
}

// board is a simulated machine whose GPUs may change while an agent reads them.
type board struct {
	mu   sync.Mutex
	now  *gpu.Reader
	gone []*gpu.Reader
}

// Devices reads the board as it is now.
func (d *board) Devices(ctx context.Context) ([]gpu.Device, error) {
	d.mu.Lock()
	r := d.now
	d.mu.Unlock()
	return r.Devices(ctx)
}

// Close closes every board that there was.
func (d *board) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, r := range append(d.gone, d.now) {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// board puts other GPUs in place of those that the agent reads.
func (b *bench) board(spec string) {
	b.Helper()
	r, err := gpu.Open(spec)
	if err != nil {
		b.Fatal(err)
	}
	b.devices.mu.Lock()
	defer b.devices.mu.Unlock()
	if b.devices.now != nil {
		b.devices.gone = append(b.devices.gone, b.devices.now)
	}
	b.devices.now = r
}

// hubDriver keeps a driver for each endpoint, as the agent's process does.
func (b *bench) hubDriver(a fetcher.Access) (fetcher.Driver, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d, ok := b.drivers[a.Endpoint]; ok && a.CredentialsDir == "" {
		return d, nil
	}
	d, err := hf.FromEnvironment(a, hf.Options{UserAgent: "stoker/test", Bounds: b.bounds})
	if err == nil {
		b.drivers[a.Endpoint] = d
	}
	return d, err
}

// get reads the Node as an administrator does.
func (b *bench) get() *corev1.Node {
	b.Helper()
	n, err := b.client.CoreV1().Nodes().Get(context.WithoutCancel(b.Context()), b.node, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func (b *bench) labels() map[string]string { return b.get().Labels }

// status decodes the annotation.
func (b *bench) status() agent.NodeStatus {
	b.Helper()
	var s agent.NodeStatus
	if text := b.get().Annotations[agent.StatusAnnotation]; text != "" {
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// modelStatus is one model of the annotation; zero if it is not there.
func (b *bench) modelStatus(name string) agent.ModelStatus {
	b.Helper()
	for _, m := range b.status().Models {
		if m.Name == name {
			return m
		}
	}
	return agent.ModelStatus{}
}

// wait polls a condition of the Node until it holds.
func (b *bench) wait(what string, cond func(n *corev1.Node) bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 60*time.Second)
	defer cancel()
	err := cluster.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		n, err := b.client.CoreV1().Nodes().Get(ctx, b.node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if !cond(n) {
			return false, fmt.Errorf("labels are %v, the annotation is %s", n.Labels, n.Annotations[agent.StatusAnnotation])
		}
		return true, nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// waitLabel waits until a label has a value; "" means: is absent.
func (b *bench) waitLabel(key, value string) {
	b.Helper()
	b.wait(fmt.Sprintf("label %s=%q", key, value), func(n *corev1.Node) bool {
		got, ok := n.Labels[key]
		return got == value && ok == (value != "")
	})
}

// waitBeats waits until the agent has worked for so long: several ticks of
// everything. Its heartbeat says that it lives.
func (b *bench) waitBeats(d time.Duration) {
	b.Helper()
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		b.Fatal(err)
	}
	until := time.Now().Add(d)
	err = cluster.WaitFor(b.Context(), "some heartbeats", func(context.Context) (bool, error) {
		beat, err := s.ReadHeartbeat()
		return err == nil && beat.Time.After(until), err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// waitEvent waits for an event about the Node and returns it.
func (b *bench) waitEvent(reason string, cond func(e eventsv1.Event) bool) eventsv1.Event {
	b.Helper()
	var found eventsv1.Event
	ctx, cancel := context.WithTimeout(b.Context(), 60*time.Second)
	defer cancel()
	err := cluster.WaitFor(ctx, "event "+reason, func(ctx context.Context) (bool, error) {
		events, err := b.client.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, e := range events.Items {
			if e.Reason == reason && e.Regarding.Kind == "Node" && e.Regarding.Name == b.node && cond(e) {
				found = e
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return found
}

func anyEvent(eventsv1.Event) bool { return true }
