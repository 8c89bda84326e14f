//go:build e2e && linux

package nfs_test

import (
	"context"
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

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
	"github.com/stoker-project/stoker/test/machine"
	"github.com/stoker-project/stoker/test/ordeal"
)

const (
	namespace = "stoker-system"
	account   = "rel-stoker"
	leaseName = account + "-store"
	values    = `{models: [], volume: {mode: shared, shared: {source: {nfs: {server: nas, path: /models}}}}}`
	// fleetStore is the store of the agents on the export.
	fleetStore = mountPoint + "/store"
	// agentPort is where agents serve their pages.
	agentPort = 9808
	// epochs is the folder in which each writer has one.
	epochs = fleetStore + "/agent/epochs"
)

// Times of a cluster, made short.
const (
	leaseDuration = 6 * time.Second
	leave         = 6 * time.Second
	settings      = `
store: {reserve: "0"}
volume: {mode: shared, namespace: stoker-system, lease: rel-stoker-store, leaseDuration: 6s}
scrub: {rate: 100Mi, cycle: 6s}
pull: {jobs: 4, concurrentModels: 2}
intervals: {observe: 300ms, labelWrites: 300ms, progress: 1s, gpu: 5s, gpuRise: 5s, heartbeat: 1s, verify: 1s, retryMin: 300ms, retryMax: 2s, resync: 2s, timeout: 3s, grace: 1s, leave: 6s}
`
)

// fleet is a server, machines that mount its export, an agent on each, and a control plane.
type fleet struct {
	*world
	// fileServer is the world's server. Goroutines use it, because the world changes with each part of a test.
	fileServer *machine.Machine
	cluster    kubernetes.Interface
	source     *ordeal.Source
	members    []*member
	volume     *view
	entries    map[string]entry

	wg         sync.WaitGroup
	failure    atomic.Pointer[string]
	failed     chan struct{}
	allowances allowances

	began    time.Time
	eventsMu sync.Mutex
	events   []string
}

// member is one Node with its machine and its agent.
type member struct {
	*fleet
	node    string
	machine *machine.Machine
	api     *ordeal.APIProxy
	// dir holds the agent's files on this machine, guestDir is where its machine has it.
	dir, guestDir string
	view          *view

	mu      sync.Mutex
	process *machine.Process
	// ending is what the test ends.
	ending *machine.Process
	// logs are those of earlier processes.
	logs []string
	// paused: the agent or its machine gets no processor time.
	paused atomic.Bool
	// loose: any of the Node's labels may go.
	loose      atomic.Bool
	promised   map[string]string // by the last version of the Node
	violations violations
}

// entry is one model of the list.
type entry struct {
	// repo and commit are the source; without a commit it moves with main.
	repo, commit string
	on           bool
}

func (e entry) yaml(name string) string {
	if e.commit != "" {
		return fmt.Sprintf("{name: %s, source: 'hf://%s@%s'}", name, e.repo, e.commit)
	}
	return fmt.Sprintf("{name: %s, source: 'hf://%s@main', refresh: 1s}", name, e.repo)
}

// newFleet boots machines, starts a control plane with the chart's rights, and an agent on each machine.
func newFleet(t *testing.T, agents int) *fleet {
	t.Helper()
	w := newWorld(t)
	f := &fleet{
		world: w, fileServer: w.server, entries: map[string]entry{}, failed: make(chan struct{}), began: time.Now(),
		volume: newView(w.server, w.onServer(fleetStore)), source: ordeal.NewSourceAt(t, machine.HostAddress, 0),
	}
	c := startCluster(t)
	f.cluster = c.Client()
	f.must("set the server's leases", f.setLeases(t.Context()))
	f.output(f.server, "mkdir "+w.onServer(fleetStore))
	for i := range agents {
		f.members = append(f.members, newMember(f, c, i))
	}
	f.writeList()
	f.watch()
	return f
}

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
	objs, err := charts.Render([]byte(values), "rel", namespace)
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	return c
}

func newMember(f *fleet, c *cluster.Cluster, number int) *member {
	t := f.T
	t.Helper()
	node := fmt.Sprintf("node-%d", number)
	m := &member{
		fleet: f, node: node, dir: filepath.Join(shared, t.Name(), node), guestDir: programDir + "/" + t.Name() + "/" + node,
		machine: f.boot(machine.Config{Name: node, N: 10 + number, Memory: 384}), api: ordeal.NewAPIProxyAt(t, c.RESTConfig(), machine.HostAddress),
	}
	m.violations.all = map[string]*violation{}
	m.view = newView(m.machine, fleetStore)
	if err := m.mount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddNode(t.Context(), cluster.NodeSpec{Name: node, GPUs: 8}); err != nil {
		t.Fatal(err)
	}
	direct, err := c.AgentKubeconfig(t.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: node, Pod: "agent-" + node})
	if err != nil {
		t.Fatal(err)
	}
	m.api.Kubeconfig(t, direct, filepath.Join(m.dir, "kubeconfig"))
	return m
}

// watch starts the agents and everything that looks at them, until the test ends.
func (f *fleet) watch() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.Context()))
	nodes, err := f.nodes(ctx)
	if err != nil {
		cancel()
		f.Fatal(err)
	}
	f.wg.Go(func() { f.watchNodes(ctx, nodes) })
	f.wg.Go(func() { f.watchVolume(ctx) })
	f.wg.Go(func() { f.watchHealth(ctx) })
	for _, m := range f.members {
		f.wg.Go(func() { m.watchView(ctx) })
	}
	t := f.T
	t.Cleanup(func() {
		for _, m := range f.members {
			m.stopAgent()
		}
		cancel()
		f.wg.Wait()
		if t.Failed() || f.failure.Load() != nil {
			f.explain(t)
		}
		if why := f.failure.Load(); why != nil {
			t.Error(*why)
		}
	})
	for _, m := range f.members {
		m.start()
	}
}

// part runs a part of the test, after which nothing may have failed.
func (f *fleet) part(name string, do func()) {
	parent := f.world
	parent.Run(name, func(t *testing.T) {
		began := time.Now()
		f.world = parent.in(t)
		defer func() { f.world = parent }()
		f.note("part: %s", name)
		do()
		if why := f.failure.Load(); why != nil {
			t.Fatal(*why)
		}
		t.Logf("it took %s", time.Since(began).Round(100*time.Millisecond))
	})
	if why := f.failure.Load(); why != nil || parent.Failed() {
		parent.FailNow()
	}
}

// mount mounts the export. Clients of Linux 7.2 that have a directory delegation go on believing that a name does not
// exist, for minutes, after another client has made it. That is no cache that a mount option bounds, so it is off here.
func (m *member) mount(ctx context.Context) error {
	if !*delegationsFlag {
		if _, err := m.machine.Output(ctx, "modprobe nfsv4 directory_delegations=N"); err != nil {
			return err
		}
	}
	return m.machine.MountNFS(ctx, m.fileServer, mountPoint, *mountFlag)
}

// start starts the agent if none runs.
func (m *member) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	script := fmt.Sprintf("exec %s/stoker agent -v --config %[2]s/config.yaml --store %[3]s --node-name %[4]s --gpus simulated:dgxh200 --kubeconfig %[2]s/kubeconfig --listen 0.0.0.0:%[5]d",
		programDir, m.guestDir, fleetStore, m.node, agentPort)
	p, err := m.machine.Start(ctx, script, "HF_ENDPOINT="+m.source.URL(), "HF_HUB_DISABLE_IMPLICIT_TOKEN=1", "HOME=/root")
	if err != nil {
		m.fail("start the agent of %s: %v", m.node, err)
		return
	}
	m.process = p
	m.restartCount()
	m.wg.Go(func() {
		<-p.Done()
		result := p.Result()
		m.mu.Lock()
		expected := m.ending == p
		m.logs = append(m.logs, result.Output)
		if m.process == p {
			m.process = nil
		}
		m.mu.Unlock()
		if crash := daemon.CrashIn(result.Output); crash != "" {
			m.fail("the agent of %s crashed:\n%s", m.node, crash)
		}
		if !expected {
			m.fail("the agent of %s ended by itself: exit code %d, signal %d", m.node, result.ExitCode, result.Signal)
		}
	})
}

// expectEnd returns the process that the test is about to end, if any.
func (m *member) expectEnd() *machine.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ending = m.process
	return m.process
}

// end ends the agent with a signal.
func (m *member) end(signal syscall.Signal) {
	p := m.expectEnd()
	if p == nil {
		return
	}
	if err := p.Signal(signal); err != nil {
		m.note("send %s to the agent of %s: %v", signal, m.node, err)
	}
	m.await(p)
}

// await waits until a process has ended. One that waits for the file server ends only when that answers.
func (m *member) await(p *machine.Process) {
	const limit = time.Minute
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.Done():
	case <-timer.C:
		m.fail("the agent of %s did not end within %s", m.node, limit)
		p.Close()
	}
	m.restartCount()
}

// stopAgent ends the agent at the end of the test, whatever state its machine is in.
func (m *member) stopAgent() {
	if p := m.expectEnd(); p != nil {
		p.Close()
		<-p.Done()
	}
	m.view.close()
}

// signal sends the agent a signal that does not end it.
func (m *member) signal(signal syscall.Signal) {
	m.mu.Lock()
	p := m.process
	m.mu.Unlock()
	m.paused.Store(signal == syscall.SIGSTOP)
	m.restartCount()
	if p != nil {
		m.must("signal an agent", p.Signal(signal))
	}
}

// log is everything that the agents of this Node have logged.
func (m *member) log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.logs)
	if m.process != nil {
		all = append(all, m.process.Result().Output)
	}
	return strings.Join(all, "")
}

// cut cuts the machine off the network; connect undoes it.
func (m *member) cut() {
	m.loose.Store(true)
	m.view.close()
	m.must("cut a machine off", m.machine.Disconnect(context.Background()))
}

func (m *member) connect() {
	m.must("connect a machine", m.machine.Connect(context.Background()))
	m.view.open()
	m.restartCount()
}

// freeze stops the machine's kernel; thaw lets it go on.
func (m *member) freeze() {
	m.loose.Store(true)
	m.paused.Store(true)
	m.view.close()
	m.must("pause a machine", m.machine.Pause())
}

func (m *member) thaw() {
	m.must("resume a machine", m.machine.Resume())
	m.paused.Store(false)
	m.view.open()
	m.restartCount()
}

// powerOff ends the machine as a power cut does; powerOn boots it with a mount and an agent.
func (m *member) powerOff() {
	p := m.expectEnd()
	m.view.close()
	m.must("cut a machine's power", m.machine.Kill())
	if p != nil {
		m.await(p)
	}
}

func (m *member) powerOn() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	m.must("boot a machine again", m.machine.Restart(ctx))
	m.must("mount again", m.mount(ctx))
	m.view.open()
	m.start()
}

// killServer ends the file server as a power cut does; startServer boots it.
func (f *fleet) killServer() {
	f.volume.close()
	for _, m := range f.members {
		m.loose.Store(true)
		m.view.close()
	}
	f.must("cut the file server's power", f.fileServer.Kill())
}

func (f *fleet) startServer(forget bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	f.must("boot the file server again", f.fileServer.Restart(ctx))
	f.must("set the server's leases", f.setLeases(ctx))
	f.must("serve again", f.fileServer.ServeNFS(ctx, machine.Export{ForgetClients: forget}))
	f.volume.open()
	for _, m := range f.members {
		m.view.open()
		m.restartCount()
	}
}

// setLeases lets the file server give delegations of files, or not.
func (f *fleet) setLeases(ctx context.Context) error {
	if *leasesFlag {
		return nil
	}
	_, err := f.fileServer.Output(ctx, "echo 0 > /proc/sys/fs/leases-enable")
	return err
}

// push pushes a model to the Hub and returns its commit.
func (f *fleet) push(repo string, seed uint64, bytes int64, files int) string {
	return f.source.Push(f.T, repo, modelTree(f.T, seed, bytes, files))
}

// list adds models to the list, or takes them off, and writes it.
func (f *fleet) list(on bool, names ...string) {
	for _, name := range names {
		e := f.entries[name]
		e.on = on
		f.entries[name] = e
		if !on {
			f.allowances.drop(name)
		}
	}
	f.writeList()
}

// writeList puts the list where the agents read it.
func (f *fleet) writeList() {
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(f.entries)) {
		if e := f.entries[name]; e.on {
			entries = append(entries, e.yaml(name))
		}
	}
	text := "models: [" + strings.Join(entries, ", ") + "]" + settings
	for _, m := range f.members {
		next := filepath.Join(m.dir, "config.next")
		err := os.WriteFile(next, []byte(text), 0o644)
		if err == nil {
			err = os.Rename(next, filepath.Join(m.dir, "config.yaml"))
		}
		f.must("write the list", err)
	}
}

// commitOf is what an entry means now.
func (f *fleet) commitOf(name string) string {
	if e := f.entries[name]; e.commit != "" {
		return e.commit
	}
	return f.source.Head(f.entries[name].repo)
}

// wanted is which revision of each model every Node should call warm.
func (f *fleet) wanted() map[string]string {
	out := map[string]string{}
	for name, e := range f.entries {
		if e.on {
			out[name] = f.commitOf(name)[:ordeal.RevLength]
		}
	}
	return out
}

func (f *fleet) nodes(ctx context.Context) (*corev1.NodeList, error) {
	return f.cluster.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
}

// promises returns what a Node's labels promise, by model.
func (m *member) promises(ctx context.Context) (map[string]string, error) {
	n, err := m.cluster.CoreV1().Nodes().Get(ctx, m.node, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return ordeal.Promises(n.Labels), nil
}

func (f *fleet) memberOf(node string) *member {
	for _, m := range f.members {
		if m.node == node {
			return m
		}
	}
	return nil
}

// holder is the member whose agent holds the Lease; nil if none does. It asks the API server as an administrator, which
// answers whatever happens to the machines.
func (f *fleet) holder() *member {
	l, err := f.cluster.CoordinationV1().Leases(namespace).Get(context.Background(), leaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		f.fail("read the Lease: %v", err)
		return nil
	}
	if l.Spec.HolderIdentity == nil {
		return nil
	}
	node, _, _ := strings.Cut(*l.Spec.HolderIdentity, "_")
	return f.memberOf(node)
}

// writer waits for the member that holds the Lease.
func (f *fleet) writer() *member {
	f.Helper()
	var found *member
	f.waitFor("a writer", func() bool {
		found = f.holder()
		return found != nil
	})
	return found
}

// others are all members but one.
func (f *fleet) others(but *member) []*member {
	return slices.DeleteFunc(slices.Clone(f.members), func(m *member) bool { return m == but })
}

// waitLabels waits until members call a model warm as the list has it, or do not.
func (f *fleet) waitLabels(name string, on bool, members ...*member) {
	f.Helper()
	f.waitFor(fmt.Sprintf("the label of %s to be on the Nodes: %t", name, on), func() bool {
		if why := f.failure.Load(); why != nil {
			f.Fatal(*why)
		}
		for _, m := range members {
			promised, err := m.promises(f.Context())
			f.must("read a Node", err)
			if want := f.commitOf(name)[:ordeal.RevLength]; on && promised[name] != want || !on && promised[name] != "" {
				return false
			}
		}
		return true
	})
}

// must fails the test if the harness itself cannot do something.
func (f *fleet) must(doing string, err error) {
	if err != nil {
		f.fail("%s: %v", doing, err)
	}
}

// fail ends the test; the first failure counts.
func (f *fleet) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	f.note("FAILED: %s", text)
	if f.failure.CompareAndSwap(nil, &text) {
		close(f.failed)
	}
}

// note keeps an event for whoever has to understand a failure.
func (f *fleet) note(format string, args ...any) {
	line := fmt.Sprintf("%s %8.3fs "+format, append([]any{time.Now().UTC().Format("15:04:05.000"), time.Since(f.began).Seconds()}, args...)...)
	f.eventsMu.Lock()
	defer f.eventsMu.Unlock()
	f.events = append(f.events, line)
}

// tick waits for a moment and reports whether to go on.
func (f *fleet) tick(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	case <-f.failed:
		return false
	}
}

// pass lets the agents work for a while.
func (f *fleet) pass(d time.Duration) { f.tick(context.Background(), d) }

// explain logs everything that may explain a failure.
func (f *fleet) explain(t *testing.T) {
	t.Helper()
	f.eventsMu.Lock()
	t.Logf("events:\n%s", strings.Join(tail(f.events, 200), "\n"))
	f.eventsMu.Unlock()
	if list, err := f.nodes(context.WithoutCancel(t.Context())); err == nil {
		for _, n := range list.Items {
			t.Logf("the labels of %s: %v\nits annotation: %s", n.Name, n.Labels, n.Annotations[ordeal.Annotation])
		}
	}
	for _, m := range f.members {
		t.Logf("the end of the log of %s:\n%s", m.node, strings.Join(tail(strings.Split(m.log(), "\n"), 80), "\n"))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	for _, m := range f.members {
		// By their names: a list of the folder might refresh what the machine has cached.
		records, err := m.machine.Run(ctx, "cd "+fleetStore+"/agent/verified && for blob in ../../blobs/sha256/*; do stat -c '%n %s %y %i' $blob; stat -c '%n %s %y %i' ${blob##*/}.json; cat ${blob##*/}.json; done; ls -l; grep nfs4 /proc/mounts")
		t.Logf("records as %s sees them (%v):\n%s", m.node, err, records.Output)
		for _, dropped := range []bool{false, true} {
			c, err := m.view.read(ctx, dropped)
			t.Logf("%s, caches dropped %t, reads %d files of the revisions %v (%v)", m.node, dropped, len(c.sums), slices.Collect(maps.Keys(c.manifests)), err)
		}
	}
	files, err := f.fileServer.Run(ctx, "cd "+machine.ExportDir+" && find . -type f -printf '%p %s %TT %i\\n'; df .")
	t.Logf("the volume (%v):\n%s", err, files.Output)
}

func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }
