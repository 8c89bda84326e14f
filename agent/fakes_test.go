package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
)

// The fakes below are for the loop's order and timing. What a label or an event
// looks like on a real API server is tested with one, in the module test.

// fakeStore holds models in memory.
type fakeStore struct {
	dir string

	mu       sync.Mutex
	models   map[string][]store.Manifest // the last one is current
	bad      map[string]error
	damaged  map[string][]string // revisions whose manifests cannot be read
	err      error
	hang     chan struct{} // looks wait for it while it is not nil
	statuses map[string]store.Status
	beats    int
	onRemove func(name string)
	checks   int
	ask      func(ctx context.Context, names []string) error
	readOnly bool
	// stuck is why superseded revisions cannot be removed, prunes how often that
	// was tried.
	stuck  error
	prunes int
	// Of a shared store: when it was led, and whether it still is; onLead may hold
	// that up.
	led     []time.Time
	leading bool
	onLead  func()
	// scrubHang lets a scrub wait for it, whatever its context says.
	scrubHang chan struct{}
}

func newFakeStore(t *testing.T) *fakeStore {
	t.Helper()
	return &fakeStore{dir: t.TempDir(), models: map[string][]store.Manifest{}, bad: map[string]error{}, statuses: map[string]store.Status{}}
}

func (s *fakeStore) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *fakeStore) Leaving() (map[string]bool, error) { return nil, nil }

func (s *fakeStore) SetLeaving(string, bool) error { return nil }

func (s *fakeStore) Lead(context.Context) error {
	s.mu.Lock()
	lead := s.onLead
	s.mu.Unlock()
	if lead != nil {
		lead()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.led = append(s.led, time.Now())
	s.leading = true
	return nil
}

func (s *fakeStore) Follow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading = false
}

func (s *fakeStore) WriteAgentFile(name string, data []byte) error {
	return os.WriteFile(s.AgentFile(name), data, 0o644)
}

func (s *fakeStore) Ensure(context.Context) error { return nil }

func (s *fakeStore) Blobs(context.Context) ([]store.Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scrubHang == nil {
		return nil, nil
	}
	return []store.Blob{{SHA256: strings.Repeat("a", 64), Size: 1}}, nil
}

func (s *fakeStore) Scrub(_ context.Context, p store.ScrubPoint) (store.ScrubPoint, error) {
	s.mu.Lock()
	hang := s.scrubHang
	s.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return p, store.ErrUnverified
}

func (s *fakeStore) Recheck(context.Context, time.Duration) (bool, error) { return false, nil }

func (s *fakeStore) Survey(context.Context, store.Manifest) (store.Survey, error) {
	return store.Survey{}, nil
}

func (s *fakeStore) Trust(store.Manifest, store.Survey, ...int) {}

func (s *fakeStore) Doubt(store.Manifest, store.Survey, int) {}

func (s *fakeStore) Resident(context.Context, string) (int64, error) { return 0, nil }

func (s *fakeStore) Warm(_ context.Context, _ string, off int64) (store.Warmed, error) {
	return store.Warmed{Next: off, Done: true}, nil
}

func (s *fakeStore) Published() ([]store.Manifest, error) {
	s.mu.Lock()
	hang := s.hang
	s.mu.Unlock()
	if hang != nil {
		<-hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []store.Manifest
	for _, name := range slices.Sorted(maps.Keys(s.models)) {
		out = append(out, s.models[name][len(s.models[name])-1])
	}
	return out, s.err
}

func (s *fakeStore) Revisions(name string) ([]store.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.models[name]), nil
}

func (s *fakeStore) Damaged(name string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.damaged[name]), nil
}

func (s *fakeStore) Check(_ context.Context, m store.Manifest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks++
	return s.bad[m.Name]
}

func (s *fakeStore) Usage() (store.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Usage{FreeBytes: 1 << 40, TotalBytes: 1 << 40, ReadOnly: s.readOnly}, nil
}

func (s *fakeStore) path(name, revision string) string { return filepath.Join(s.dir, name, revision) }

func (s *fakeStore) Files(name, revision string) fs.FS { return os.DirFS(s.path(name, revision)) }

func (s *fakeStore) Remove(_ context.Context, name string) error {
	s.onRemove(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.models, name)
	return nil
}

func (s *fakeStore) RemoveRevision(_ context.Context, name, revision string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prunes++; s.stuck != nil {
		return s.stuck
	}
	s.models[name] = slices.DeleteFunc(s.models[name], func(m store.Manifest) bool { return m.Revision == revision })
	return nil
}

func (s *fakeStore) GC(context.Context, time.Duration) (store.GCResult, error) {
	return store.GCResult{RemovedBytes: 7}, nil
}

func (s *fakeStore) BeforeWithdraw(ask func(context.Context, []string) error) { s.ask = ask }

func (s *fakeStore) WriteStatus(st store.Status) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[st.Name] = st
	return nil
}

func (s *fakeStore) RemoveStatus(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.statuses, name)
	return nil
}

func (s *fakeStore) WriteHeartbeat(store.Heartbeat) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats++
	return nil
}

func (s *fakeStore) AgentFile(name string) string { return filepath.Join(s.dir, name) }

func (s *fakeStore) status(name string) store.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[name]
}

// fakePuller publishes into a fakeStore.
type fakePuller struct {
	store *fakeStore

	mu       sync.Mutex
	takes    time.Duration
	err      error
	revision string
	pulls    []time.Time
	lookups  int
	onPull   func(name string)
	// refuse, if not nil, ends a pull or a lookup before it begins.
	refuse func(req fetcher.Request) error
}

func (p *fakePuller) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *fakePuller) count() (pulls, lookups int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pulls), p.lookups
}

func (p *fakePuller) Resolve(_ context.Context, req fetcher.Request) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lookups++
	if p.refuse != nil {
		if err := p.refuse(req); err != nil {
			return "", err
		}
	}
	return p.revision, p.err
}

func (p *fakePuller) Pull(ctx context.Context, req fetcher.Request) (fetcher.Result, error) {
	p.mu.Lock()
	p.pulls = append(p.pulls, time.Now())
	takes, err, revision := p.takes, p.err, p.revision
	var refused error
	if p.refuse != nil {
		refused = p.refuse(req)
	}
	p.mu.Unlock()
	if refused != nil {
		return fetcher.Result{}, refused
	}
	p.onPull(req.Name)
	req.Progress(fetcher.Progress{Phase: fetcher.PhasePulling, BytesDone: 1, BytesTotal: 7})
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fetcher.Result{}, ctx.Err()
	case <-timer.C:
	}
	if err != nil {
		return fetcher.Result{}, err
	}
	p.store.set(func() {
		delete(p.store.bad, req.Name)
		m := store.Manifest{
			Name: req.Name, Source: req.Source.String(), Revision: revision, Bytes: 7,
			Include: req.Include, Also: req.Also, Exclude: req.Exclude, FileFormat: req.FileFormat, Selection: fetcher.SelectionVersion, PublishedAt: time.Now(),
		}
		have := slices.DeleteFunc(p.store.models[req.Name], func(o store.Manifest) bool { return o.Revision == revision })
		p.store.models[req.Name] = append(have, m)
	})
	return fetcher.Result{Name: req.Name, Revision: revision, Bytes: 7, DownloadedBytes: 7}, nil
}

// fakeCluster remembers what was applied, and when.
type fakeCluster struct {
	mu      sync.Mutex
	packed  []string // what the status Lease was given
	noLease error    // what writing it fails with
	view    nodeView
	missing bool
	away    error
	here    []pod
	writes  []time.Time
	notes   []string // reasons of events
	texts   []string // of events and annotations
	// Where nodes share a volume: the Lease, and who carries what leaves.
	leases   elect.Lease
	carrying map[string]string
}

func (c *fakeCluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *fakeCluster) node(context.Context) (nodeView, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.missing {
		return nodeView{}, errNoNode
	}
	v := c.view
	v.Labels = maps.Clone(v.Labels)
	return v, c.away
}

func (c *fakeCluster) apply(_ context.Context, uid types.UID, s said) (nodeView, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.missing || uid != c.view.UID {
		return nodeView{}, errNoNode
	}
	if c.away != nil {
		return nodeView{}, c.away
	}
	c.writes = append(c.writes, time.Now())
	kept := map[string]string{}
	for k, v := range c.view.Labels {
		if !isOurs(k) {
			kept[k] = v
		}
	}
	maps.Copy(kept, s.labels)
	c.view.Labels, c.view.Status = kept, s.annotation
	c.texts = append(c.texts, s.annotation)
	v := c.view
	v.Labels = maps.Clone(kept)
	return v, nil
}

func (c *fakeCluster) applyStatus(_ context.Context, _ StatusLease, packed string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil || c.noLease != nil {
		return errors.Join(c.away, c.noLease)
	}
	c.packed = append(c.packed, packed)
	return nil
}

func (c *fakeCluster) agents(context.Context, string) (int, error) { return 1, nil }

func (c *fakeCluster) lift(_ context.Context, taints []coldTaint) (nodeView, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return nodeView{}, c.away
	}
	if !slices.Equal(taints, c.view.Cold) {
		return nodeView{}, errors.New("the test operation failed")
	}
	c.view.Cold = nil
	v := c.view
	v.Labels = maps.Clone(v.Labels)
	return v, nil
}

func (c *fakeCluster) cold() []coldTaint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.Cold
}

func (c *fakeCluster) pods() ([]pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.here), true
}

func (c *fakeCluster) event(_ context.Context, e eventWrite) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, e.Reason)
	c.texts = append(c.texts, e.Note)
	return "event", nil
}

func (c *fakeCluster) run(ctx context.Context) { <-ctx.Done() }

func (c *fakeCluster) lease() elect.Lease { return c.leases }

func (c *fakeCluster) ledger() ledgerStore { return nil }

func (c *fakeCluster) carriers(context.Context, string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.carrying), c.away
}

func (c *fakeCluster) fleet() fleetWatch { return noPods{} }

// noPods is a cluster in which no pod reads a store.
type noPods struct{}

func (noPods) run(ctx context.Context) { <-ctx.Done() }

func (noPods) pods() ([]pod, bool) { return nil, true }

func (c *fakeCluster) label(key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.Labels[key]
}

func (c *fakeCluster) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.writes)
}

func (c *fakeCluster) told(reason string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, r := range c.notes {
		if r == reason {
			n++
		}
	}
	return n
}

// isOurs says whether a label or annotation key is one that Stoker writes.
func isOurs(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	return ok && (prefix == Domain || strings.HasSuffix(prefix, "."+Domain))
}

// fakeDevices answers with what it holds.
type fakeDevices struct {
	mu   sync.Mutex
	list []gpu.Device
	err  error
}

func (d *fakeDevices) Devices(context.Context) ([]gpu.Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list, d.err
}

func (d *fakeDevices) set(list []gpu.Device, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list, d.err = list, err
}

// bench is an agent on fakes.
type bench struct {
	*testing.T
	agent   *Agent
	store   *fakeStore
	puller  *fakePuller
	cluster *fakeCluster
	devices *fakeDevices
	config  string
	secrets *secrets.Set
	logger  *slog.Logger
	stop    func()
}

// newBench makes an agent with a configuration; start runs it. Every removal
// and every repair is held against the order that labels promise.
func newBench(t *testing.T, config string) *bench {
	t.Helper()
	b := &bench{T: t, config: filepath.Join(t.TempDir(), "config.yaml"), logger: slog.New(slog.DiscardHandler), stop: func() {}}
	b.store = newFakeStore(t)
	b.puller = &fakePuller{store: b.store, revision: commit, takes: time.Second}
	b.cluster = &fakeCluster{view: nodeView{UID: "uid-1", Labels: map[string]string{"foreign": "stays"}, GPUs: 2, GPUsKnown: true}}
	b.cluster.here = []pod{{UID: "pod-serving", Phase: corev1.PodRunning, GPUs: 1}}
	b.devices = &fakeDevices{list: devices(79, 40)}
	b.write(config)
	unpromised := func(doing, name string) {
		if b.cluster.label(WarmPrefix+name) != "" {
			t.Errorf("%s %s while its label stands", doing, name)
		}
	}
	b.store.onRemove = func(name string) { unpromised("remove", name) }
	b.puller.onPull = func(name string) {
		b.store.mu.Lock()
		bad := b.store.bad[name]
		b.store.mu.Unlock()
		if bad != nil {
			unpromised("repair", name)
		}
	}
	b.make()
	return b
}

// make makes the agent, as a start of the process does.
func (b *bench) make() {
	b.Helper()
	cfg, err := LoadConfig(b.config, b.store.AgentFile(LastGoodFile))
	if err != nil {
		b.Fatal(err)
	}
	wakeup := make(chan struct{}, 1)
	b.agent = newAgent(Options{
		Config: cfg, ConfigPath: b.config, NodeName: "n", Version: "test", Release: "ns/rel", Store: b.store, Puller: b.puller,
		Admission: NewAdmission(b.store.Usage, cfg.Store), Devices: b.devices, Logger: b.logger, Secrets: b.secrets,
	}, b.cluster, wakeup)
}

func (b *bench) write(config string) {
	b.Helper()
	if err := os.WriteFile(b.config, []byte(config), 0o644); err != nil {
		b.Fatal(err)
	}
}

// start runs the agent until the test or b.stop ends it.
func (b *bench) start() {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- b.agent.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			b.Errorf("run: %v", err)
		}
	})
	b.Cleanup(b.stop)
}
