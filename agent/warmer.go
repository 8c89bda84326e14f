package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Warmer measures what is in memory, and brings it there; *store.Store is one.
type Warmer interface {
	// Resident is how many bytes of a blob are in memory; store.ErrUnmeasurable.
	Resident(ctx context.Context, sha256Hex string) (int64, error)
	// Warm brings a piece of a blob into memory, if it is not there.
	Warm(ctx context.Context, sha256Hex string, off int64) (store.Warmed, error)
}

const (
	// warmIdle is how long a warmer waits at most when there is nothing to do.
	warmIdle = 30 * time.Second
	// warmUsable is how soon it looks again whether the store answers.
	warmUsable = time.Second
	// measureShare is which part of its time it measures at most: one in so many.
	measureShare = 20
	// warmAgain is how many measurements pass before a model is read again. It is
	// twice as many each time that it has not stayed in memory for warmCalm times as
	// long as reading it took, up to warmLatest.
	warmAgain  = 4
	warmLatest = time.Hour
	warmCalm   = 10
)

// warmer holds models in memory: it measures how much of them is there, and reads
// what is not, in order and at a bounded rate. It runs in a goroutine of its own: a
// disk that hangs stops it and nothing else.
type warmer struct {
	store    Warmer
	usable   func() bool // the store answers
	busy     func() bool // something is pulled
	found    func(ctx context.Context)
	wake     func()
	headroom func() (headroom.State, error)
	speed    *speedometer
	logger   *slog.Logger
	setting  atomic.Pointer[warmSetting]
	renewed  chan struct{} // other targets, or settings

	// Only the goroutine touches these.
	passes   map[string]*pass
	measured time.Time // when the last measurement ended; zero: it is due
	cost     time.Duration
	readNext time.Time // when the rate allows the next piece
	told     string    // the last error, to tell it once

	mu      sync.Mutex
	targets []ramTarget
	view    ramView
}

type warmSetting struct {
	rate  int64
	every time.Duration
}

// pass is one reading of a model, from its first file to its last.
type pass struct {
	revision  string
	published time.Time // the same revision may be published with other files
	active    bool
	file      int
	off       int64
	began     time.Time
	ended     time.Time
	stayed    bool          // after it, all of it was there
	wait      time.Duration // after it, before the next
}

// ramView is what was measured. Its map is never changed after it was published.
type ramView struct {
	// Measured is false before the first time.
	Measured  bool
	Memory    headroom.State
	MemoryErr error
	Resident  map[string]residency
	// Every is the time between two measurements.
	Every time.Duration
	// Read is how many bytes were read into memory since the process began.
	Read int64
}

func newWarmer(s Warmer, usable, busy func() bool, found func(context.Context), wake func(), logger *slog.Logger) *warmer {
	return &warmer{
		store: s, usable: usable, busy: busy, found: found, wake: wake, headroom: headroom.Read, logger: logger,
		renewed: make(chan struct{}, 1), passes: map[string]*pass{},
	}
}

func (w *warmer) configure(cfg RAMConfig, every time.Duration) {
	w.setting.Store(&warmSetting{rate: max(1, cfg.Rate), every: every})
	poke(w.renewed)()
}

// want takes over what shall be measured and held in memory.
func (w *warmer) want(targets []ramTarget) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.EqualFunc(w.targets, targets, func(a, b ramTarget) bool {
		return a.Manifest.Name == b.Manifest.Name && a.Manifest.Revision == b.Manifest.Revision && a.Read == b.Read
	}) {
		return
	}
	w.targets = targets
	poke(w.renewed)()
}

// seen is what is known now.
func (w *warmer) seen() ramView {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

func (w *warmer) wanted() []ramTarget {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.targets
}

// run works until ctx ends.
func (w *warmer) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.pause(ctx, w.step(ctx))
	}
	if w.usable() {
		w.speed.keep(true)
	}
}

func (w *warmer) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.renewed:
	case <-timer.C:
	}
}

// step does what is due now, and returns how long to wait before the next.
func (w *warmer) step(ctx context.Context) time.Duration {
	if !w.usable() {
		return warmUsable
	}
	w.speed.restore()
	w.speed.keep(false)
	targets := w.wanted()
	if len(targets) == 0 {
		w.forget()
		return warmIdle // other targets end it
	}
	now := time.Now()
	due := w.measured.Add(w.every())
	if w.measured.IsZero() || !now.Before(due) || !w.covers(targets) {
		w.measure(ctx, targets)
		return 0
	}
	if until := w.readNext.Sub(now); until > 0 {
		return min(until, due.Sub(now))
	}
	read, next := w.read(ctx, now, targets)
	if read {
		return 0
	}
	if !next.IsZero() && next.Before(due) {
		due = next
	}
	return max(due.Sub(now), 0)
}

// every is the time between two measurements: longer than the settings say where
// one takes long.
func (w *warmer) every() time.Duration { return max(w.setting.Load().every, measureShare*w.cost) }

// covers says whether every target has been measured.
func (w *warmer) covers(targets []ramTarget) bool {
	view := w.seen()
	for _, t := range targets {
		if r, ok := view.Resident[t.Manifest.Name]; !ok || r.Revision != t.Manifest.Revision {
			return false
		}
	}
	return true
}

// forget drops what was measured of models that nobody wants in memory any more.
func (w *warmer) forget() {
	w.measured = time.Time{}
	clear(w.passes)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.Resident = nil
}

// measure looks how much memory there is, and how much of each target is in it.
func (w *warmer) measure(ctx context.Context, targets []ramTarget) {
	began := time.Now()
	state, stateErr := w.headroom()
	counts := map[string]int64{} // by digest: content may be shared
	resident := make(map[string]residency, len(targets))
	for _, t := range targets {
		r := w.measureOne(ctx, t.Manifest, counts)
		if ctx.Err() != nil {
			return
		}
		if p := w.passes[t.Manifest.Name]; p != nil && p.revision == r.Revision && !p.active && !p.ended.IsZero() {
			r.Leaves = r.share() < ramFrom && !p.stayed
			p.stayed = p.stayed || r.share() >= ramFrom
		}
		resident[t.Manifest.Name] = r
	}
	maps.DeleteFunc(w.passes, func(name string, _ *pass) bool { _, ok := resident[name]; return !ok })
	w.measured = time.Now()
	w.cost = w.measured.Sub(began)
	w.mu.Lock()
	changed := !w.view.Measured || !maps.EqualFunc(w.view.Resident, resident, residency.likewise)
	w.view.Measured, w.view.Memory, w.view.MemoryErr, w.view.Resident, w.view.Every = true, state, stateErr, resident, w.every()
	w.mu.Unlock()
	if changed {
		w.wake()
	}
}

func (w *warmer) measureOne(ctx context.Context, m store.Manifest, counts map[string]int64) residency {
	r := residency{Revision: m.Revision}
	mine := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if mine[f.SHA256] {
			continue
		}
		mine[f.SHA256] = true
		n, ok := counts[f.SHA256]
		if !ok {
			var err error
			if n, err = w.store.Resident(ctx, f.SHA256); err != nil {
				w.failed(ctx, "measure what is in memory", m.Name, err)
				r.Err = err
				break
			}
			counts[f.SHA256] = n
		}
		r.Size, r.Bytes = r.Size+f.Size, r.Bytes+min(n, f.Size)
	}
	r.At = time.Now()
	return r
}

// likewise says that two measurements say the same on the Node.
func (r residency) likewise(o residency) bool {
	return r.Revision == o.Revision && r.Leaves == o.Leaves && errText(r.Err) == errText(o.Err) &&
		(r.share() < ramUntil) == (o.share() < ramUntil) && (r.share() < ramFrom) == (o.share() < ramFrom)
}

// read brings the next piece of the first target in that lacks something. read is
// false if there was nothing to do; then next is when there may be.
func (w *warmer) read(ctx context.Context, now time.Time, targets []ramTarget) (read bool, next time.Time) {
	view := w.seen()
	for _, t := range targets {
		if !t.Read {
			continue
		}
		p, at := w.begin(now, t.Manifest, view.Resident[t.Manifest.Name])
		if p != nil {
			w.piece(ctx, t.Manifest, p)
			return true, time.Time{}
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return false, next
}

// begin returns the pass of a model that is under way, or begins one if it lacks
// something and its time has come; at is when that is.
func (w *warmer) begin(now time.Time, m store.Manifest, r residency) (p *pass, at time.Time) {
	p = w.passes[m.Name]
	if p == nil || p.revision != m.Revision || !p.published.Equal(m.PublishedAt) {
		p = &pass{revision: m.Revision, published: m.PublishedAt}
		w.passes[m.Name] = p
	}
	if p.active {
		return p, time.Time{}
	}
	if r.Err != nil || r.share() >= ramFrom {
		return nil, time.Time{}
	}
	least := warmAgain * w.setting.Load().every
	if at := p.ended.Add(p.wait); !p.ended.IsZero() && now.Before(at) {
		return nil, at
	}
	if calm := p.stayed && now.Sub(p.ended) >= warmCalm*p.ended.Sub(p.began); p.wait == 0 || calm {
		p.wait = least
	} else {
		p.wait = min(2*p.wait, max(least, warmLatest))
	}
	p.active, p.began, p.stayed, p.file, p.off = true, now, false, 0, 0
	return p, time.Time{}
}

// piece reads one piece of a model.
func (w *warmer) piece(ctx context.Context, m store.Manifest, p *pass) {
	if p.file >= len(m.Files) {
		w.endPass(p)
		return
	}
	got, err := w.store.Warm(ctx, m.Files[p.file].SHA256, p.off)
	now := time.Now()
	rate := w.setting.Load().rate
	if w.busy() {
		rate = max(rate/scrubBeside, 1)
	}
	w.readNext = now.Add(time.Duration(float64(got.Read) / float64(rate) * float64(time.Second)))
	w.mu.Lock()
	w.view.Read += got.Read
	w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		w.failed(ctx, "read into memory", m.Name, err)
		p.file, p.off = len(m.Files), 0 // the next pass tries again
	case got.Done:
		w.speed.add(got.Cold)
		p.file, p.off = p.file+1, 0
	default:
		w.speed.add(got.Cold)
		p.off = got.Next
	}
	if p.file >= len(m.Files) {
		w.endPass(p)
	}
}

// endPass ends a reading; how much of it has stayed is measured at once.
func (w *warmer) endPass(p *pass) {
	p.active, p.ended = false, time.Now()
	w.measured = time.Time{}
}

// failed tells an error once, and has the store looked at if it is one of content.
func (w *warmer) failed(ctx context.Context, doing, model string, err error) {
	if ctx.Err() != nil {
		return
	}
	if text := model + errText(err); text != w.told {
		w.told = text
		w.logger.Warn("hold in memory", "doing", doing, "model", model, "error", errText(err))
	}
	if errors.Is(err, store.ErrCorrupt) {
		w.found(ctx)
	}
}
