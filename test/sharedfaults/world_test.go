package sharedfaults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/ordeal"
	"github.com/stoker-project/stoker/test/weakfs"
)

const (
	namespace = "stoker-system"
	release   = "rel"
	account   = release + "-stoker"
	leaseName = account + "-store"
	values    = `{models: [], volume: {mode: shared, shared: {source: {nfs: {server: nas, path: /models}}}}}`
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
	objs, err := charts.Render([]byte(values), release, namespace)
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	return c
}

// world is a volume with the Nodes that share it and everything that their agents
// need, all of it breakable.
type world struct {
	t      *testing.T
	client kubernetes.Interface
	// volume is the directory that all mounts show, reader what knows it.
	volume string
	reader *ordeal.Reader
	fs     *weakfs.Volume
	source *ordeal.Source

	members []*member

	// What the harness wants of the agents; only the walk touches it.
	entries map[string]entry
	commits map[string][]string // from which an entry may choose
	pushed  uint64

	// volumeMu: who changes files has it, who compares labels with bytes has it to
	// read.
	volumeMu sync.RWMutex
	terms    terms
	ambush   ambush
	excuses  excuses
	holder   atomic.Pointer[string] // who holds the Lease, as a Node's name

	failure  atomic.Pointer[string]
	failed   chan struct{}
	wg       sync.WaitGroup
	began    time.Time
	logMu    sync.Mutex
	happened []string // the steps and what came of them
}

// newWorld makes a world of so many agents, which run and are watched.
func newWorld(t *testing.T, c *cluster.Cluster, agents int) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		t: t, client: c.Client(), volume: filepath.Join(dir, "volume"), failed: make(chan struct{}), began: time.Now(),
	}
	w.reader = ordeal.NewReader(w.volume)
	w.excuses.all = map[string]excuse{}
	w.terms.began = map[int]term{}
	if err := os.Mkdir(w.volume, 0o755); err != nil {
		t.Fatal(err)
	}
	w.source = ordeal.NewSource(t, rate)
	var mounts []string
	for i := range agents {
		m := newMember(w, c, i, filepath.Join(dir, fmt.Sprintf("agent-%d", i)))
		w.members = append(w.members, m)
		mounts = append(mounts, m.store)
	}
	var err error
	w.fs, err = weakfs.Start(weakfs.Options{
		Dir: w.volume, Mounts: mounts, Cached: cached, Judged: judgedFolders(),
		Before: w.beforeChange, After: w.afterChange,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.fs.Close(); err != nil {
			t.Error(err)
		}
	})
	w.pushModels()
	w.writeList()
	w.watchAll()
	return w
}

// watchAll starts the agents and everything that looks at them, until the test
// ends.
func (w *world) watchAll() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	nodes, err := w.nodes(ctx)
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	for _, watch := range []func(){
		func() { w.watchNodes(ctx, nodes) }, func() { w.watchLease(ctx) }, func() { w.watchHealth(ctx) },
		func() { w.watchLabels(ctx) }, func() { w.keepRunning(ctx) },
	} {
		w.wg.Go(watch)
	}
	w.t.Cleanup(func() {
		for _, m := range w.members {
			m.mend()
			m.signal(contSignal)
			m.end(killSignal)
		}
		cancel()
		w.wg.Wait()
		w.checkOutside()
		w.forget()
	})
	for _, m := range w.members {
		m.ensure()
	}
}

// forget takes from the API server what would be in the next walk's way: what a dead
// agent's Node promises holds up removals, and its Lease the first writer.
func (w *world) forget() {
	ctx := context.WithoutCancel(w.t.Context())
	for _, m := range w.members {
		if err := w.client.CoreV1().Nodes().Delete(ctx, m.node, metav1.DeleteOptions{}); err != nil {
			w.t.Error(err)
		}
	}
	err := w.client.CoordinationV1().Leases(namespace).Delete(ctx, leaseName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.t.Error(err)
	}
}

// keepRunning starts agents again that have ended by themselves, as a kubelet does.
func (w *world) keepRunning(ctx context.Context) {
	for w.tick(ctx, 300*time.Millisecond) {
		for _, m := range w.members {
			if m.restartDue.Load() {
				m.ensure()
			}
		}
	}
}

// nodes reads the Nodes as an administrator, not by the way that is broken.
func (w *world) nodes(ctx context.Context) (*corev1.NodeList, error) {
	return w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: walkLabel + "=" + w.mark()})
}

// mark is what the Nodes of this walk have as their label.
func (w *world) mark() string {
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(w.t.Name()))
}

const walkLabel = "walk"

func (w *world) memberOf(node string) *member {
	for _, m := range w.members {
		if m.node == node {
			return m
		}
	}
	return nil
}

// writer is whose agent holds the Lease; the first if nobody does.
func (w *world) writer() *member {
	if h := w.holder.Load(); h != nil {
		if m := w.memberOf(*h); m != nil {
			return m
		}
	}
	return w.members[0]
}

// follower is one that does not hold the Lease, chosen by a number.
func (w *world) follower(n int) *member {
	writer := w.writer()
	var others []*member
	for _, m := range w.members {
		if m != writer {
			others = append(others, m)
		}
	}
	if len(others) == 0 {
		return writer
	}
	return others[n%len(others)]
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

// pause lets the agents work for a while.
func (w *world) pause(d time.Duration) { w.tick(w.t.Context(), d) }

// must fails the walk if the harness itself cannot do something.
func (w *world) must(doing string, err error) {
	if err != nil {
		w.fail("%s: %v", doing, err)
	}
}

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
	line := fmt.Sprintf("%s %8.3fs "+format, append([]any{time.Now().UTC().Format("15:04:05.000"), time.Since(w.began).Seconds()}, args...)...)
	w.logMu.Lock()
	defer w.logMu.Unlock()
	w.happened = append(w.happened, line)
}

// tell prints everything that may explain a failure.
func (w *world) tell() {
	t := w.t
	w.logMu.Lock()
	t.Logf("what happened:\n%s", strings.Join(tail(w.happened, 160), "\n"))
	w.logMu.Unlock()
	if list, err := w.nodes(context.WithoutCancel(t.Context())); err == nil {
		for _, n := range list.Items {
			t.Logf("the labels of %s: %v\nits annotation: %s", n.Name, n.Labels, n.Annotations[ordeal.Annotation])
		}
	}
	for _, m := range w.members {
		t.Logf("the end of the log of %s:\n%s", m.node, strings.Join(tail(strings.Split(m.log.String(), "\n"), 60), "\n"))
	}
	var names []string
	_ = filepath.WalkDir(w.volume, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			names = append(names, err.Error())
			return nil
		}
		info, err := d.Info()
		// Of links only current: the others are many and say little.
		if err == nil && !d.IsDir() && (info.Mode().IsRegular() || d.Name() == "current") {
			names = append(names, fmt.Sprintf("%s %d %s", strings.TrimPrefix(path, w.volume), info.Size(), info.ModTime().UTC().Format("15:04:05.000")))
		}
		return nil
	})
	t.Logf("the volume:\n%s", strings.Join(names, "\n"))
}

func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }
