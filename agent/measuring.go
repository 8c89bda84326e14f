package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu/sizing"
)

const (
	// mostMeasured bounds how many pods are asked; a node has 110 by default.
	mostMeasured = 64
	// measureAgain is when a replica that was measured is asked again: what its page says of the cache stays for as long as
	// it runs. Not being ready in between has it asked at once.
	measureAgain = 6 * time.Hour
	// measureRetry is when one is asked again that could not be, twice as long each further time, up to measureAgain.
	measureRetry = 30 * time.Second
)

// measureTarget is a replica to measure.
type measureTarget struct {
	Pod       string
	Address   netip.AddrPort
	Node      []netip.Addr
	ReadyAt   time.Time
	Namespace string
	Trusted   bool
	// Name and Revision are of the model, Size what it needs, and Device one of the GPUs, which are all alike.
	Name, Revision string
	Size           *sizing.Model
	Device         sizing.DeviceMemory
	TensorParallel int
	VLLMVersion    string
}

// same reports whether a target is the same replica, started at the same time and judged in the same way.
func (t measureTarget) same(o measureTarget) bool {
	return t.Pod == o.Pod && t.Address == o.Address && t.ReadyAt.Equal(o.ReadyAt) && t.Trusted == o.Trusted && t.Name == o.Name &&
		t.Revision == o.Revision && t.Size == o.Size && t.Device == o.Device && t.TensorParallel == o.TensorParallel && t.VLLMVersion == o.VLLMVersion
}

// rules returns the release of vLLM whose rules hold for the replica: its own, or the default where its own are not known.
func (t measureTarget) rules() string {
	if sizing.CheckVLLMVersion(t.VLLMVersion) != nil {
		return ""
	}
	return t.VLLMVersion
}

// record turns a page into what the replica took.
func (t measureTarget) record(page []byte, now time.Time) (measure.Record, error) {
	p, err := measure.ParsePage(page)
	if err != nil {
		return measure.Record{}, err
	}
	need, err := t.Size.Need(sizing.Serving{
		TensorParallel: t.TensorParallel, MaxModelLen: p.MaxModelLen, GPUMemoryUtilization: p.GPUMemoryUtilization, KVCacheDtype: p.CacheDtype,
		VLLMVersion: t.rules(),
	})
	if err != nil {
		return measure.Record{}, fmt.Errorf("%w: %w", measure.ErrNotMeasurable, err)
	}
	took, err := need.On(t.Device).BesideBytes(t.Device.UsableBytes, p.CacheBlocks())
	if err != nil {
		return measure.Record{}, fmt.Errorf("%w: %w", measure.ErrNotMeasurable, err)
	}
	r := measure.Record{
		Pod: t.Pod, Trusted: t.Trusted, Model: t.Name, Revision: t.Revision, GPU: t.Device.Name, TotalBytes: t.Device.UsableBytes,
		TensorParallel: t.TensorParallel, VLLMVersion: t.VLLMVersion, GPUMemoryUtilization: p.GPUMemoryUtilization, MaxModelLen: p.MaxModelLen,
		KVCacheDtype: need.KVCacheDtype, CacheTokens: p.Blocks * p.BlockTokens, BesideBytes: took, At: now.UTC().Truncate(time.Second), Seen: now.UTC().Truncate(time.Second),
	}
	if t.Trusted {
		r.Namespace = t.Namespace
	}
	return r, nil
}

// measureTargets are the replicas on this node that can be measured, the trusted ones first. It is a pure function.
//
// A pod is one if it serves the published revision of a warm model, which was there when its init containers had ended, on
// whole GPUs of one kind that no other pod shares, and splits the model over all of them.
func measureTargets(cfg MeasureConfig, pods []pod, models []modelState, published map[string]storedModel, g gpuFacts) []measureTarget {
	device, alike := g.kind()
	if !cfg.Enabled || !alike {
		return nil
	}
	places := make(map[string]int, len(models))
	for i, m := range models {
		places[m.Name] = i
	}
	var out []measureTarget
	for _, p := range pods {
		at, known := places[p.Labels[ModelLabel]]
		if p.Replica == nil || len(p.Adapters) > 0 || p.over() || p.GPUs == 0 || p.GPUParts || !known {
			continue
		}
		m, r := models[at], p.Replica
		manifest := published[m.Name].Manifest
		if !m.Warm || m.Size == nil || m.Revision != manifest.Revision || r.InitializedAt.Before(manifest.PublishedAt.Truncate(time.Second)) {
			continue
		}
		tp, stated := measure.TensorParallel(r.Split)
		if !stated && tp > 0 {
			tp = max(1, m.Model.Serving.TensorParallel) // a script that names no number
		}
		if tp != p.GPUs || g.Slices && tp > 1 {
			continue
		}
		port := cmp.Or(r.Address.Port(), cfg.Port)
		out = append(out, measureTarget{
			Pod: p.UID, Address: netip.AddrPortFrom(r.Address.Addr(), port), Node: r.NodeAddresses, ReadyAt: r.ReadyAt,
			Namespace: r.Namespace, Trusted: slices.Contains(cfg.TrustedNamespaces, r.Namespace),
			Name: m.Name, Revision: m.Revision, Size: m.Size, Device: device, TensorParallel: tp, VLLMVersion: r.VLLMVersion,
		})
	}
	slices.SortFunc(out, func(a, b measureTarget) int {
		return cmp.Or(boolFirst(a.Trusted, b.Trusted), cmp.Compare(a.Pod, b.Pod))
	})
	return out[:min(len(out), mostMeasured)]
}

// kind is what the GPUs that pods get are, where they are all alike and none is given to several pods.
func (g gpuFacts) kind() (sizing.DeviceMemory, bool) {
	var one sizing.DeviceMemory
	if !g.Known || g.Divided {
		return one, false
	}
	for _, d := range g.Devices {
		if !g.counts(d) {
			continue
		}
		each := sizing.DeviceMemory{Name: d.Name, TotalBytes: d.TotalBytes, UsableBytes: d.UsableBytes, Partition: d.MIG != nil}
		if one.Name != "" && each != one || each.Name == "" || each.UsableBytes == 0 {
			return one, false
		}
		one = each
	}
	return one, one.Name != ""
}

// measureReplicas takes what was measured, forgets what is over, and has measured what is new.
func (a *Agent) measureReplicas(now time.Time, f facts, d decision, g gpuFacts) {
	l, cfg := &a.loop, a.loop.cfg.Measure
	if !cfg.Enabled {
		a.measure.want(nil)
		a.measure.take()
		l.measured = measure.Book{}
		return
	}
	for _, r := range a.measure.take() {
		l.measured = l.measured.With(r)
	}
	present := measure.Present{
		Now: now, Pods: map[string]bool{}, PodsKnown: f.PodsKnown, Revisions: map[string]string{}, RevisionsKnown: f.Store.Known,
		Trusted: func(namespace string) bool { return slices.Contains(cfg.TrustedNamespaces, namespace) },
	}
	for _, p := range f.Pods {
		present.Pods[p.UID] = !p.over()
	}
	for name, m := range f.Store.Value.Models {
		present.Revisions[name] = m.Manifest.Revision
	}
	l.measured = l.measured.Keep(present)
	if f.PodsKnown && f.Store.Known {
		a.measure.want(measureTargets(cfg, f.Pods, d.Models, f.Store.Value.Models, g))
	}
}

// keepMeasured writes down what was measured on a volume of this node's own, if it changed.
func (a *Agent) keepMeasured() {
	l := &a.loop
	if !l.cfg.Volume.own() || !l.remembered || l.measured.Equal(l.measuredKept) {
		return
	}
	l.measuredKept = l.measured
	data, err := l.measured.Encode()
	if err != nil {
		a.logger.Error("render what was measured", "error", errText(err))
		return
	}
	a.scribe.put(measure.File, func() error { return a.o.Store.WriteAgentFile(measure.File, data) })
}

// readMeasured reads what an earlier run has measured.
func readMeasured(path string) (measure.Book, error) {
	data, err := store.ReadAgentFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return measure.Book{}, nil
	}
	if err != nil {
		return measure.Book{}, err
	}
	return measure.ParseBook(data)
}

// measurer asks replicas, one at a time, in a goroutine of its own: each answer has a bound, so one that hangs only makes
// the others wait.
type measurer struct {
	page    func(ctx context.Context, pod netip.AddrPort, node []netip.Addr) ([]byte, error)
	wake    func()
	logger  *slog.Logger
	renewed chan struct{} // other targets

	// Only the goroutine touches it: what became of each replica, by its pod.
	asked map[string]*asked

	mu      sync.Mutex
	targets []measureTarget
	found   []measure.Record
}

// asked is what became of one replica.
type asked struct {
	target   measureTarget
	next     time.Time
	failures int
	told     string // the last error, to tell it once
}

func newMeasurer(page func(context.Context, netip.AddrPort, []netip.Addr) ([]byte, error), wake func(), logger *slog.Logger) *measurer {
	return &measurer{page: page, wake: wake, logger: logger, renewed: make(chan struct{}, 1), asked: map[string]*asked{}}
}

// want takes over who is to be measured.
func (m *measurer) want(targets []measureTarget) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.EqualFunc(m.targets, targets, measureTarget.same) {
		return
	}
	m.targets = targets
	poke(m.renewed)()
}

// take returns what was measured since it was last called.
func (m *measurer) take() []measure.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := m.found
	m.found = nil
	return found
}

// run works until ctx ends.
func (m *measurer) run(ctx context.Context) {
	timer := time.NewTimer(measureAgain)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(m.round(ctx))
		select {
		case <-ctx.Done():
		case <-m.renewed:
		case <-timer.C:
		}
	}
}

// round asks who is due, and returns how long nobody will be.
func (m *measurer) round(ctx context.Context) time.Duration {
	m.mu.Lock()
	targets := m.targets
	m.mu.Unlock()
	before, wait := m.asked, measureAgain
	m.asked = make(map[string]*asked, len(targets))
	for _, t := range targets {
		s := before[t.Pod]
		if s == nil || !s.target.same(t) {
			s = &asked{target: t}
		}
		m.asked[t.Pod] = s
		if ctx.Err() == nil && !time.Now().Before(s.next) {
			m.ask(ctx, s)
		}
		wait = min(wait, time.Until(s.next))
	}
	return max(0, wait)
}

// ask measures one replica.
func (m *measurer) ask(ctx context.Context, s *asked) {
	t := s.target
	page, err := m.page(ctx, t.Address, t.Node)
	var r measure.Record
	if err == nil {
		r, err = t.record(page, time.Now())
	}
	if ctx.Err() != nil {
		return
	}
	switch {
	case err == nil:
		s.failures, s.told, s.next = 0, "", time.Now().Add(measureAgain)
		m.logger.Info("measure replica", "model", t.Name, "pod", t.Pod, "trusted", t.Trusted, "beside_bytes", r.BesideBytes, "cache_tokens", r.CacheTokens)
		m.mu.Lock()
		m.found = append(m.found, r)
		m.mu.Unlock()
		m.wake()
		return
	case errors.Is(err, measure.ErrNotMeasurable), errors.Is(err, measure.ErrAddress):
		s.next = time.Now().Add(measureAgain) // it stays so
	default:
		s.next = time.Now().Add(min(measureRetry<<min(s.failures, 16), measureAgain))
		s.failures++
	}
	if text := errText(err); text != s.told {
		s.told = text
		m.logger.Warn("measure replica", "model", t.Name, "pod", t.Pod, "error", text)
	}
}
