package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/fetcher/store"
)

// departure is what no other Node may say before something is removed from a shared
// volume: that a model is warm, or, with Except, that it is at another revision than
// that, which is a label's value.
type departure struct{ Model, Except string }

// sharedFacts are what is known where nodes share a volume.
type sharedFacts struct {
	// On: nodes share the volume. Writes: this agent is the one that writes. Sealed:
	// none does.
	On, Writes, Sealed bool
	// Inspected is how far a sealed volume is read, by model.
	Inspected map[string]inspected
	// Writer is the node whose agent does; empty: not known.
	Writer string
	// Elsewhere are the pods of other nodes that may read the store.
	Elsewhere []pod
	// Gone says that for long enough no other Node has said it.
	Gone map[departure]bool
	// Carriers are the Nodes that a model's departure waits for.
	Carriers map[string][]string
}

// follows says whether this agent writes nothing: another does, or none.
func (s sharedFacts) follows() bool { return s.On && !s.Writes }

func (s sharedFacts) where() string {
	if s.Writes {
		return "on some node"
	}
	return "on this node"
}

// carriers says, as the end of a sentence, what a departure waits for.
func (s sharedFacts) carriers(model string) string {
	const most = 3
	nodes := s.Carriers[model]
	if len(nodes) == 0 {
		return ""
	}
	text := ", which waits for " + strings.Join(nodes[:min(len(nodes), most)], ", ")
	if more := len(nodes) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// promisedAnywhere is what labels may promise: on a shared volume every published
// model, unless it was seen that no Node does.
func (f facts) promisedAnywhere() map[string]bool {
	if !f.Shared.On {
		return f.Promised
	}
	all := maps.Clone(f.Promised)
	for name := range f.Store.Value.Models {
		if !f.Shared.Gone[departure{Model: name}] {
			all[name] = true
		}
	}
	return all
}

// follow decides about one entry of the list where another agent writes: to say what
// this node's own mount shows.
func (p *planner) follow(m Model) {
	s := modelState{Name: m.Name, Model: m, Listed: true, State: StateQueued, Pods: p.here[m.Name]}
	s.Wanted = len(m.NodeSelector) == 0 || (p.NodeKnown && m.selects(p.NodeLabels)) || s.Pods > 0
	have, published := p.Store.Value.Models[m.Name]
	published = published && p.Store.Known && sameSource(m, have.Manifest)
	if published {
		s.Revision, s.Bytes, s.Size, s.SizeErr = have.Manifest.Revision, have.Manifest.Bytes, have.Size, have.SizeErr
	}
	writer := "the agent that writes into the shared volume"
	if p.Shared.Writer != "" {
		writer = "the agent of " + p.Shared.Writer + ", which writes into the shared volume,"
	}
	switch {
	case !p.Store.Known:
		p.withoutStore(&s)
	case !s.Wanted:
		s.State, s.Reason = StateSkipped, notSelected
	case p.Store.Value.Leaving[m.Name]:
		s.State, s.Reason = StateEvicting, writer+" takes it away"
	case published && have.Err == nil:
		s.State, s.Warm = StateWarm, true
	case published && errors.Is(have.Err, store.ErrCorrupt):
		s.Reason = "this node does not see all of its files as they were verified: " + errText(have.Err)
		s.Hint = "wait until caches of the mount have caught up, or until it is pulled again"
	case published:
		s.State, s.Reason = StateFailed, "its files cannot be checked: "+errText(have.Err)
		s.Hint = "look at the node's mount"
	default:
		s.Reason = writer + " has not published it yet"
		if p.Shared.Writer == "" {
			s.Reason = "no agent writes into the shared volume yet"
		}
	}
	p.out.Models = append(p.out.Models, s)
}

// turns is one agent's part in taking turns to write into a shared volume.
type turns struct {
	cluster  cluster
	store    Store
	elector  *elect.Elector
	observer *storeObserver
	self     string
	// writes is true while this agent writes; others than the loop look at it.
	writes atomic.Bool
	// fenced: a write found that another agent has begun to write.
	fenced atomic.Bool
	led    slot[led]

	// Only the loop touches these.
	// ctx is of this agent's time of writing; nil: it does not write.
	ctx      context.Context //nolint:containedctx // a time of leading is a context
	trying   bool
	notAgain time.Time // before then the store is not led again
	gen      int       // the first look at the store that may be planned by
	pods     fleetWatch
	stop     context.CancelFunc
	leaving  map[departure]*leave
	nodes    *probe[map[string]map[string]string]
	names    atomic.Pointer[[]string]
	asked    int
	marks    chan marked
}

// led is how becoming the store's writer ended.
type led struct {
	ctx context.Context //nolint:containedctx // a time of leading is a context
	err error
}

// marked says that a departure is written in the store.
type marked struct {
	departure
	at  time.Time
	err error
}

// leave is how far a departure is.
type leave struct {
	marking bool
	marked  time.Time // zero: the store does not say it yet
	// empty is since when no other Node was seen to say otherwise, last when that was
	// seen last.
	empty, last time.Time
	carriers    []string
}

func newTurns(a *Agent, c cluster, observer *storeObserver) *turns {
	t := &turns{cluster: c, store: a.o.Store, observer: observer, self: a.o.NodeName, leaving: map[departure]*leave{}, marks: make(chan marked, 1000)}
	t.elector = elect.New(elect.Options{
		Lease: c.lease(), Identity: a.o.NodeName + "_" + rand.Text()[:8], Duration: a.o.Config.Volume.LeaseDuration,
		Ready: a.idle, Changed: poke(a.wakeup), Logger: a.logger,
	})
	return t
}

// idle says whether all that this agent did in the store has ended.
func (a *Agent) idle() bool {
	return !a.pulls.any() && !a.removes.any() && a.disk.latest().Known
}

// fencedBy notes that another agent has taken the store over.
func (a *Agent) fencedBy(err error) error {
	if a.turns != nil && errors.Is(err, store.ErrFenced) {
		a.turns.fenced.Store(true)
		poke(a.wakeup)()
	}
	return err
}

// takeTurns follows the election: it begins to write when this agent leads and the
// store is led, and ends it with the Lease.
func (a *Agent) takeTurns(ctx context.Context, now time.Time) { //nolint:contextcheck // what writes ends with the time of leading
	t := a.turns
	if t == nil {
		return
	}
	leading, leads := t.elector.Leading()
	if got, ok := t.led.take(); ok {
		t.trying = false
		switch {
		case got.err != nil:
			t.notAgain = now.Add(a.loop.cfg.Intervals.RetryMin)
			a.logger.Warn("become the writer of the shared volume", "error", errText(got.err))
		case leads && got.ctx == leading:
			a.beginToWrite(ctx, leading)
		default:
			t.store.Follow()
		}
	}
	if t.ctx != nil && (!leads || t.ctx != leading || t.fenced.Load()) {
		a.endToWrite()
	}
	t.fenced.Store(false)
	if t.ctx == nil && leads && !t.trying && !now.Before(t.notAgain) && a.idle() {
		t.trying = true
		a.wg.Go(func() {
			callCtx, cancel := context.WithTimeout(leading, a.loopTimeout())
			defer cancel()
			t.led.put(led{ctx: leading, err: t.store.Lead(callCtx)})
			poke(a.wakeup)()
		})
	}
}

func (a *Agent) loopTimeout() time.Duration { return time.Duration(a.timeout.Load()) }

func (a *Agent) beginToWrite(ctx, leading context.Context) {
	t, l := a.turns, &a.loop
	a.logger.Info("write into the shared volume from now on")
	t.ctx = leading
	t.observer.forget.Store(true) // the memory is another agent's by now
	l.remembered = false
	l.kept, l.beat = memory{}, time.Time{}
	clear(l.statuses)
	t.gen = a.disk.next()
	a.disk.start(ctx, l.cfg.Intervals.Timeout, true)
	podCtx, stop := context.WithCancel(leading)
	pods := t.cluster.fleet()
	t.pods, t.stop = pods, stop
	a.wg.Go(func() { pods.run(podCtx) })
	t.nodes = newProbe("the API server", poke(a.wakeup), &a.wg, t.ask)
	t.asked = 0
	t.writes.Store(true)
}

// endToWrite ends everything that writes. What is in the middle of a call to the
// store fails, when another agent has begun.
func (a *Agent) endToWrite() {
	t := a.turns
	a.logger.Warn("another agent may write into the shared volume: end all that writes")
	t.writes.Store(false)
	t.store.Follow()
	t.stop()
	a.pulls.cancelAll()
	a.scribe.forget()
	t.ctx, t.pods = nil, nil
	clear(t.leaving)
}

// giveWay lets another agent write at once, when this one ends.
func (a *Agent) giveWay(ctx context.Context) {
	if a.turns == nil || a.pulls.any() || a.removes.any() {
		return
	}
	a.turns.store.Follow()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.loopTimeout()) // Run's own has ended
	defer cancel()
	if err := a.turns.elector.Release(ctx); err != nil {
		a.logger.Warn("let another agent write into the shared volume", "error", errText(err))
	}
}

// sharedFacts adds what a plan must know of a shared volume.
func (a *Agent) sharedFacts(now time.Time, f *facts) {
	if a.inspect != nil {
		f.Shared = sharedFacts{On: true, Sealed: true, Inspected: a.inspect.seen().Models}
	}
	t := a.turns
	if t == nil {
		return
	}
	s := sharedFacts{On: true, Gone: map[departure]bool{}, Carriers: map[string][]string{}}
	s.Writer, _, _ = strings.Cut(t.elector.Holder(), "_")
	// A plan goes by what the store looked like since this agent writes.
	s.Writes = t.ctx != nil && f.Store.Known && f.Store.Gen >= t.gen && a.loop.remembered
	if s.Writes {
		pods, known := t.pods.pods()
		f.PodsKnown = f.PodsKnown && known
		here := make(map[string]bool, len(f.Pods))
		for _, p := range f.Pods {
			here[p.UID] = true
		}
		s.Elsewhere = slices.DeleteFunc(pods, func(p pod) bool { return here[p.UID] })
	}
	for d, l := range t.leaving {
		s.Gone[d] = s.Writes && !l.empty.IsZero() && l.last.Sub(l.empty) >= a.loop.cfg.Intervals.Leave && now.Sub(l.last) < a.loop.cfg.Intervals.Leave
		if len(l.carriers) > 0 {
			s.Carriers[d.Model] = l.carriers
		}
	}
	f.Shared = s
}

// depart does what the plan's departures need: it says them in the store, and asks
// the API server who has not seen it yet. What is not to leave any more is taken
// back.
func (a *Agent) depart(ctx context.Context, now time.Time, f facts, d decision) {
	t := a.turns
	if t == nil || !f.Shared.Writes {
		return
	}
	for more := true; more; {
		select {
		case got := <-t.marks:
			if l := t.leaving[got.departure]; l != nil {
				if l.marking = false; got.err == nil {
					l.marked = got.at
				}
			}
		default:
			more = false
		}
	}
	for what := range d.Leave {
		l := t.leaving[what]
		if l == nil {
			l = &leave{}
			t.leaving[what] = l
		}
		switch {
		case what.Except != "" && l.marked.IsZero():
			l.marked = now // the store says already which revision is the current one
		case l.marked.IsZero() && !l.marking:
			l.marking = true
			a.scribe.put("leaving "+what.Model, func() error {
				err := a.fencedBy(t.store.SetLeaving(what.Model, true))
				t.marks <- marked{departure: what, at: time.Now(), err: err}
				poke(a.wakeup)()
				return err
			})
		}
	}
	for what := range t.leaving {
		if !d.Leave[what] {
			delete(t.leaving, what)
		}
	}
	for name := range f.Store.Value.Leaving {
		if d.Leave[departure{Model: name}] || f.Store.Gen <= t.gen-1 {
			continue
		}
		a.scribe.put("leaving "+name, func() error { return a.fencedBy(t.store.SetLeaving(name, false)) })
	}
	a.askNodes(ctx, now)
}

// askNodes asks who carries what leaves, and takes answers.
func (a *Agent) askNodes(ctx context.Context, now time.Time) {
	t, iv := a.turns, a.loop.cfg.Intervals
	got := t.nodes.latest()
	if got.Known && got.Gen > t.asked {
		t.asked = got.Gen
		for what, l := range t.leaving {
			nodes, ok := got.Value[what.Model]
			if !ok || l.marked.IsZero() || !got.Asked.After(l.marked) {
				continue
			}
			l.carriers = nil
			for _, node := range slices.Sorted(maps.Keys(nodes)) {
				if node != t.self && (what.Except == "" || nodes[node] != what.Except) {
					l.carriers = append(l.carriers, node)
				}
			}
			l.last = got.Asked
			switch {
			case len(l.carriers) > 0:
				l.empty = time.Time{}
			case l.empty.IsZero():
				l.empty = got.Asked
			}
		}
	}
	if len(t.leaving) > 0 && t.nodes.due(now, min(iv.Observe, iv.Leave/4)) {
		names := make([]string, 0, len(t.leaving))
		for what := range t.leaving {
			names = append(names, what.Model)
		}
		t.names.Store(&names)
		t.nodes.start(ctx, iv.Timeout, false)
	}
}

// ask lists who carries the models that leave.
func (t *turns) ask(ctx context.Context, beat func()) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	for _, name := range *t.names.Load() {
		nodes, err := t.cluster.carriers(ctx, name)
		if err != nil {
			return nil, err
		}
		out[name] = nodes
		beat()
	}
	return out, nil
}

// tooOld says that what this node's mount was seen to show is too old to promise it:
// the writer may have said since that it goes, and waited for as long as it does. So
// an agent that was paused looks again first.
func (a *Agent) tooOld(now time.Time, f facts) bool {
	if !f.Shared.follows() || !f.Store.Known || now.Sub(f.Store.Asked) < a.loop.cfg.Intervals.Leave/2 {
		return false
	}
	a.lookAgain.Store(true)
	return true
}
