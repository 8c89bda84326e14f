package sweep

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/sweep"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

const (
	namespace = "stoker-system"
	release   = "rel"
	selector  = "app.kubernetes.io/name=stoker,app.kubernetes.io/instance=" + release
	sweeper   = release + "-stoker-sweeper"
	unlabeler = release + "-stoker-unlabel"
	// timeout makes a test short. A pod's condition has whole seconds, so less
	// would say little.
	timeout = 3 * time.Second
	values  = "sweeper: {agentTimeout: 3s}\nport: 1\n"
)

// bench is a control plane with the chart installed and one node whose agent is
// always ready, so that a node without one is an exception.
type bench struct {
	*testing.T
	cluster *cluster.Cluster
	client  kubernetes.Interface
	// configs are the connections of accounts, made once.
	configs map[string]string
}

func newBench(t *testing.T, options cluster.Options) *bench {
	t.Helper()
	options.Log = os.Stderr
	c, err := cluster.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{T: t, cluster: c, client: c.Client(), configs: map[string]string{}}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}}}
	if _, err := b.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.install()
	b.node("steady")
	b.ready("steady", true)
	return b
}

// install installs the chart, or what is missing of it.
func (b *bench) install() {
	b.Helper()
	objs, err := charts.Render([]byte(values), release, namespace)
	if err != nil {
		b.Fatal(err)
	}
	if err := charts.Apply(b.Context(), b.cluster.RESTConfig(), objs); err != nil {
		b.Fatal(err)
	}
}

// on is the same bench for a subtest.
func (b *bench) on(t *testing.T) *bench {
	t.Helper()
	other := *b
	other.T = t
	return &other
}

// node makes a GPU node with an agent's pod, not ready yet, and with labels as
// an agent writes them, beside keys of others.
func (b *bench) node(name string) {
	b.Helper()
	spec := cluster.NodeSpec{
		Name: name, GPUs: 8,
		Labels:      map[string]string{"nvidia.com/gpu.present": "true", "team": "a", "stoker.dev/pool": "x"},
		Annotations: map[string]string{"note": "mine", "stoker.dev/note": "mine"},
		Taints:      []corev1.Taint{{Key: "stoker.dev/cold", Effect: corev1.TaintEffectNoSchedule}},
	}
	if _, err := b.cluster.AddNode(b.Context(), spec); err != nil {
		b.Fatal(err)
	}
	b.pod(name)
	b.label(name)
}

func agentLabels() map[string]string {
	return map[string]string{
		agent.WarmPrefix + "llama": "disk", agent.RevPrefix + "llama": "0123456789ab", agent.FitsPrefix + "llama": "8",
		agent.FreeGiBLabel: "140", agent.IdleLabel: "8",
	}
}

// label writes what an agent says, in its way.
func (b *bench) label(name string) { b.labelOf(name, "{}") }

// labelOf does so with an annotation.
func (b *bench) labelOf(name, status string) {
	b.Helper()
	cfg := applycorev1.Node(name).WithLabels(agentLabels()).WithAnnotations(map[string]string{agent.StatusAnnotation: status})
	if _, err := b.client.CoreV1().Nodes().Apply(b.Context(), cfg, metav1.ApplyOptions{FieldManager: agent.FieldManager, Force: true}); err != nil {
		b.Fatal(err)
	}
}

// pod is the agent's pod that the DaemonSet controller made for the node, once
// the scheduler has bound it.
func (b *bench) pod(name string) *corev1.Pod {
	b.Helper()
	var found *corev1.Pod
	b.wait("an agent's pod on "+name, func(ctx context.Context) (bool, error) {
		pods, err := b.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector, FieldSelector: "spec.nodeName=" + name})
		if err != nil || len(pods.Items) == 0 {
			return false, err
		}
		found = &pods.Items[0]
		return true, nil
	})
	return found
}

// ready says of the agent's pod on the node what a kubelet would.
func (b *bench) ready(name string, ready bool) {
	b.Helper()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	condition := corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"phase": corev1.PodRunning, "conditions": []corev1.PodCondition{condition}}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := b.client.CoreV1().Pods(namespace).Patch(b.Context(), b.pod(name).Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) get(name string) *corev1.Node {
	b.Helper()
	n, err := b.client.CoreV1().Nodes().Get(b.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func (b *bench) wait(what string, cond func(ctx context.Context) (bool, error)) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 90*time.Second)
	defer cancel()
	if err := cluster.WaitFor(ctx, what, cond); err != nil {
		b.Fatal(err)
	}
}

// waitBare waits until the node says nothing of an agent's any more.
func (b *bench) waitBare(name string) {
	b.Helper()
	b.wait("the labels of "+name+" to go", func(ctx context.Context) (bool, error) {
		n, err := b.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		left := keysOf(n)
		if len(left) > 0 {
			return false, fmt.Errorf("it still has %v", left)
		}
		return true, nil
	})
}

// keysOf is what an agent wrote and is still there.
func keysOf(n *corev1.Node) map[string]string {
	out := map[string]string{}
	for k, v := range n.Labels {
		if agent.IsAgentLabel(k) {
			out[k] = v
		}
	}
	for k, v := range n.Annotations {
		if agent.IsAgentAnnotation(k) {
			out[k] = v
		}
	}
	return out
}

// untouched demands that the node says all that the agent said.
func (b *bench) untouched(name string) {
	b.Helper()
	want := agentLabels()
	want[agent.StatusAnnotation] = "{}"
	if got := keysOf(b.get(name)); !maps.Equal(got, want) {
		b.Errorf("%s has %v, want %v", name, got, want)
	}
}

// kubeconfig is a file with which a process has an account's rights.
func (b *bench) kubeconfig(account string) string {
	b.Helper()
	if b.configs[account] == "" {
		path, err := b.cluster.AgentKubeconfig(b.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: "steady", Pod: "as-" + account})
		if err != nil {
			b.Fatal(err)
		}
		b.configs[account] = path
	}
	return b.configs[account]
}

func (b *bench) as(account string) *rest.Config {
	b.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", b.kubeconfig(account))
	if err != nil {
		b.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

// sweep runs a sweeper in this process, over the given connection, until the
// test ends.
func (b *bench) sweep(cfg *rest.Config) {
	b.Helper()
	log := &log{}
	s, err := sweep.New(sweep.Options{
		Namespace: namespace, Selector: selector, AgentTimeout: timeout, Kube: cfg,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("run: %v", err)
		}
		if b.Failed() {
			b.Logf("the sweeper's log:\n%s", log.String())
		}
	})
}

// log keeps what a sweeper writes.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// binary builds the real thing once for all tests of the bench.
func (b *bench) binary() string {
	b.Helper()
	chart, err := charts.Dir("stoker")
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "stoker")
	cmd := exec.CommandContext(b.Context(), "go", "build", "-o", path, "./cmd/stoker")
	cmd.Dir = filepath.Dir(filepath.Dir(chart))
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build stoker: %v\n%s", err, out)
	}
	return path
}
