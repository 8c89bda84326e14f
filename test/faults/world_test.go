package faults

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
)

const (
	namespace = "stoker-system"
	release   = "rel"
	account   = release + "-stoker"
)

// startCluster starts a control plane with the chart's account and rights.
func startCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := c.Client().CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	objs, err := charts.Render([]byte("models: []"), release, namespace)
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	return c
}

// world is one Node with everything that its agent needs, all of it breakable.
type world struct {
	t          *testing.T
	client     kubernetes.Interface
	node       string
	dir        string
	kubeconfig string

	disk   *disk
	source *ordeal.Source
	api    *ordeal.APIProxy
	reader *ordeal.Reader

	// What the harness wants of the agent; only the walk touches it.
	entries map[string]entry
	commits map[string][]string // from which an entry may choose
	pods    map[string]bool
	pushed  uint64
	// forgetful: there is no room for models in memory.
	forgetful bool

	log        daemon.Log
	agent      atomic.Pointer[process]
	agentMu    sync.Mutex  // who starts or ends the agent
	restartDue atomic.Bool // it ended by itself
	nonsense   atomic.Bool // the list on file is no list
	wg         sync.WaitGroup

	// diskMu: who changes files or mounts has it, who compares labels with bytes
	// has it to read.
	diskMu    sync.RWMutex
	removals  *removals
	removalWG sync.WaitGroup
	diskState atomic.Pointer[string] // what is wrong with the disk; nil: nothing

	history history
	lies    lies
	excuses excuses

	failure  atomic.Pointer[string]
	failed   chan struct{}
	began    time.Time
	logMu    sync.Mutex
	happened []string // the steps and what came of them
}

// newWorld makes a world, with its agent running and everything watched.
func newWorld(t *testing.T, c *cluster.Cluster) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a disk does to the agent is not tested here")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("SKIPPED, no mkfs.ext4: what a disk does to the agent is not tested here")
	}
	w := &world{
		t: t, client: c.Client(), node: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())),
		dir: t.TempDir(), pods: map[string]bool{}, failed: make(chan struct{}), began: time.Now(),
	}
	w.history.since = map[promise]time.Time{}
	w.lies.all, w.lies.ofMemory = map[string]*lie{}, map[string]time.Duration{}
	w.excuses.all = map[string]excuse{}
	if _, err := c.AddNode(t.Context(), cluster.NodeSpec{Name: w.node, GPUs: 8, Labels: map[string]string{"pool": "gpu"}}); err != nil {
		t.Fatal(err)
	}
	direct, err := c.AgentKubeconfig(t.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: w.node, Pod: "agent-" + w.node})
	if err != nil {
		t.Fatal(err)
	}
	w.api = ordeal.NewAPIProxy(t, c.RESTConfig())
	w.kubeconfig = filepath.Join(w.dir, "kubeconfig")
	w.api.Kubeconfig(t, direct, w.kubeconfig)
	w.source = ordeal.NewSource(t, rate)
	w.pushModels()
	w.writeList()
	w.disk = newDisk(t, 400<<20)
	w.reader = ordeal.NewReader(w.disk.dir)
	w.watchDisk()
	t.Cleanup(w.unwatchDisk)
	w.watchAll()
	return w
}

// watchAll starts the agent and everything that looks at it, until the test
// ends.
func (w *world) watchAll() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	n, err := w.getNode(ctx)
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	for _, watch := range []func(){
		func() { w.watchNode(ctx, n) }, func() { w.watchHealth(ctx) }, func() { w.watchLabels(ctx) }, func() { w.keepRunning(ctx) },
	} {
		w.wg.Go(watch)
	}
	w.t.Cleanup(func() {
		cancel()
		w.signalAgent(contSignal)
		w.endAgent(killSignal)
		w.wg.Wait()
	})
	w.ensureAgent()
}

// keepRunning starts the agent again when it has ended by itself, as a kubelet
// does.
func (w *world) keepRunning(ctx context.Context) {
	for w.tick(ctx, 300*time.Millisecond) {
		if w.restartDue.Load() {
			w.ensureAgent()
		}
	}
}

// mayFailToStart says why an agent may end by itself now; "" if it may not.
func (w *world) mayFailToStart() string {
	if state := w.diskState.Load(); state != nil {
		return *state
	}
	if _, err := os.Stat(filepath.Join(w.disk.dir, "agent", "last-good-config.yaml")); err != nil && w.nonsense.Load() {
		return "a list that is none, and no memory of a good one"
	}
	return ""
}

// watchDisk begins to look at what is removed from the disk.
func (w *world) watchDisk() {
	r, err := watchRemovals(w.disk.dir)
	if err != nil {
		w.fail("watch the store: %v", err)
		return
	}
	w.removals = r
	w.removalWG.Go(func() {
		r.run(func(e removed) { w.sawRemoval(context.WithoutCancel(w.t.Context()), e) })
	})
}

func (w *world) unwatchDisk() {
	if w.removals == nil {
		return
	}
	if err := w.removals.close(); err != nil {
		w.fail("watch the store: %v", err)
	}
	w.removalWG.Wait()
	w.removals = nil
}

// tick waits for a moment and says whether to go on.
func (w *world) tick(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	case <-w.failed:
		return false
	}
}

// pause lets the agent work for a while.
func (w *world) pause(d time.Duration) { w.tick(w.t.Context(), d) }

// fail ends the walk; the first failure counts.
func (w *world) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note("FAILED: %s", text)
	if w.failure.CompareAndSwap(nil, &text) {
		close(w.failed)
	}
}

// note remembers what happened, for who has to understand a failure.
func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%8.3fs "+format, append([]any{time.Since(w.began).Seconds()}, args...)...)
	w.logMu.Lock()
	defer w.logMu.Unlock()
	w.happened = append(w.happened, line)
}

// tell prints everything that may explain a failure.
func (w *world) tell() {
	t := w.t
	w.logMu.Lock()
	t.Logf("what happened:\n%s", strings.Join(tail(w.happened, 120), "\n"))
	w.logMu.Unlock()
	if n, err := w.getNode(context.WithoutCancel(t.Context())); err == nil {
		t.Logf("the Node's labels: %v\nits ordeal.Annotation: %s", n.Labels, n.Annotations[ordeal.Annotation])
	}
	t.Logf("the end of the agent's log:\n%s", strings.Join(tail(strings.Split(w.log.String(), "\n"), 80), "\n"))
	var names []string
	_ = filepath.WalkDir(w.disk.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			names = append(names, err.Error())
			return nil
		}
		info, err := d.Info()
		// Of links only current: the others are many and say little.
		if err == nil && !d.IsDir() && (info.Mode().IsRegular() || d.Name() == "current") {
			names = append(names, fmt.Sprintf("%s %d %s", strings.TrimPrefix(path, w.disk.dir), info.Size(), info.ModTime().Format("15:04:05.000")))
		}
		return nil
	})
	t.Logf("the store:\n%s", strings.Join(names, "\n"))
}

func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }
