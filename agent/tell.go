package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// say writes labels and annotation if that is due; else it returns when time
// alone makes it due. Before the store has answered nothing is said at all: a
// restart never drops a label that may be true.
func (a *Agent) say(ctx context.Context, now time.Time, f facts, d decision) time.Time {
	l := &a.loop
	if !l.storeOK || !l.nodeOK || !l.gpus.fed || !a.ramKnown(now, d) {
		return time.Time{}
	}
	if !a.inspectKnown(now, f) || a.tooOld(now, f) {
		return time.Time{}
	}
	l.said.agents = a.fleetSize.now()
	c := composer{now: now, intervals: l.cfg.Intervals, agents: l.said.agents, lease: l.cfg.Status.leaseOf(a.o.NodeName), last: l.said.confirmed}
	list := ListStatus{Models: len(l.cfg.Models), Rejected: oneLine(l.rejected, maxListText)}
	u, err := l.gpus.utter(now, &l.said, l.cfg.Intervals, func(w gpuWord) (said, error) {
		status := describe(d.Models, w, f.Store, l.speed)
		status.Agent, status.Release, status.List = a.o.Version, a.o.Release, list
		status.Throttled = l.throttled.list()
		a.hideInStatus(&status)
		return c.compose(labels(d.Models, w), status)
	})
	if err != nil {
		a.logger.Error("render the annotation", "error", errText(err))
		return time.Time{}
	}
	if !u.due {
		return u.at
	}
	l.said.begin(now)
	l.writing = u
	a.write(ctx, u.said)
	return time.Time{}
}

// maxListText is how much of a rejected list's mistakes the annotation holds,
// in characters.
const maxListText = 2000

// write applies in a goroutine of its own, with a bound; the loop takes the
// outcome through a.wrote. The Lease is written first, so that it is there when the
// Node names it; what becomes of it never holds up the Node.
func (a *Agent) write(ctx context.Context, want said) {
	l := &a.loop
	uid, timeout := l.nodeSeen.UID, l.cfg.Intervals.Timeout
	leaseOnly := l.said.leaseOnly(want)
	withLease := want.whole != "" && (l.said.confirmed == nil || l.said.confirmed.wholeProgress != want.wholeProgress)
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		callCtx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		out := written{leaseOnly: leaseOnly}
		if withLease {
			out.leaseErr = a.cluster.applyStatus(callCtx, want.more, want.whole)
		}
		if !leaseOnly {
			out.view, out.err = a.cluster.apply(callCtx, uid, want)
			if ctx.Err() != nil && out.err != nil {
				return
			}
			a.metrics.nodeWritten(out.err == nil)
		}
		a.written.put(out)
		poke(a.wakeup)()
		if want.pulling && a.o.Namespace != "" && a.fleetSize.due(time.Now()) {
			a.countAgents(callCtx)
		}
	}()
}

// countAgents asks how many agents share what may be written of progress.
func (a *Agent) countAgents(ctx context.Context) {
	n, err := a.cluster.agents(ctx, a.o.Namespace)
	if err != nil {
		a.logger.Debug("count the agents", "error", errText(err))
		return
	}
	a.fleetSize.set(n)
}

// written is how a write of the Node ended.
type written struct {
	view nodeView
	err  error
	// leaseErr is how writing the status Lease failed; leaseOnly: nothing else was to
	// be written.
	leaseErr  error
	leaseOnly bool
}

// slot hands the latest value from one goroutine to another.
type slot[T any] struct {
	mu    sync.Mutex
	value T
	full  bool
}

func (s *slot[T]) put(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.full = v, true
}

func (s *slot[T]) take() (T, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.full
	s.full = false
	return s.value, full
}

// takeWrite takes the outcome of the write in flight, if there is one.
func (a *Agent) takeWrite(ctx context.Context, now time.Time) {
	l := &a.loop
	w, ok := a.written.take()
	if !ok {
		return
	}
	wrote := l.writing.said
	if w.leaseOnly {
		wrote.annotation = l.said.confirmed.annotation
	}
	if text := errText(w.leaseErr); text != l.leaseErr {
		if l.leaseErr = text; text != "" {
			a.logger.Warn("write own status lease", "error", text)
		}
	}
	if w.leaseErr != nil {
		// What it was to say is said with the next change.
		wrote.wholeProgress = [sha256.Size]byte{}
	}
	l.said.end(now, wrote, w.err, l.cfg.Intervals, jitter())
	if w.err != nil {
		a.logger.Warn("write own node", "try", l.said.failures, "error", errText(w.err))
		if errors.Is(w.err, errNoNode) {
			l.nodeOK = false
		}
		// It may be another object by now: look before the next try.
		a.node.start(ctx, l.cfg.Intervals.Timeout, true)
		return
	}
	l.said.last = now
	l.gpus.confirmed(now, l.writing)
	if w.leaseOnly {
		return
	}
	a.seeNode(w.view)
	if !a.ready.Swap(true) {
		a.logger.Info("said for the first time", "labels", len(l.writing.said.labels))
	}
}

// pullEnded takes the outcome of a pull or a lookup.
func (a *Agent) pullEnded(now time.Time, out outcome) {
	l := &a.loop
	if errors.Is(a.fencedBy(out.Err), store.ErrFenced) {
		out.Canceled = true // it is the next writer's now
	}
	name := out.Model.Name
	r := l.records[name]
	if out.Pulled {
		// What the store looked like before says nothing any more.
		r.Fresh, r.Removed = a.disk.next(), nil
		a.lookAgain.Store(true)
	}
	if out.Canceled {
		l.records[name] = r
		return
	}
	if out.Pulled && fetcher.QuotaOf(out.Err).Host == "" {
		a.metrics.pulled(out)
	}
	r.Transfer = out.Model.transfer()
	if q := fetcher.QuotaOf(out.Err); q.Host != "" {
		a.pullThrottled(now, out, r, q)
		return
	}
	if out.Err != nil {
		f, retryAfter := failureOf(out.Err)
		f.Reason, f.Hint = a.o.Secrets.Scrub(f.Reason), a.o.Secrets.Scrub(f.Hint)
		r.Failures++
		r.Failure, r.PulledRevision = f, ""
		r.Next = now.Add(max(retryAfter, backoff(l.cfg.Intervals, r.Failures, jitter())))
		if retryAfter > 0 {
			f.Until = now.Add(retryAfter)
		}
		l.records[name] = r
		a.logger.Warn("pull model", "model", name, "source", out.Model.Source.String(), "try", r.Failures, "next", r.Next, "error", errText(out.Err))
		a.events.record(event{
			Reason: EventModelPullFailed, Subject: name, Action: "Pull", Warning: true,
			Note: strings.TrimSuffix(f.Reason+"; "+f.Hint, "; "),
		})
		return
	}
	r.Failure, r.Failures, r.Next = nil, 0, time.Time{}
	r.LookedUp, r.PulledRevision = now, out.Revision
	r.Early, r.Spread = 0, false // a fleet pulls a new revision together
	if refresh := out.Model.Refresh; !out.Pulled && refresh > 0 {
		r.Early, r.Spread = rand.N(max(1, refresh/10)), true
	}
	l.records[name] = r
	if out.Pulled {
		a.logger.Info("pulled model", "model", name, "revision", out.Revision, "bytes", out.Result.Bytes,
			"downloaded_bytes", out.Result.DownloadedBytes, "seconds", out.Duration.Seconds())
	}
}

// removalEnded takes the outcome of a removal.
func (a *Agent) removalEnded(now time.Time, out removal) {
	l := &a.loop
	r := l.records[out.Name]
	r.Fresh, r.Removed = a.disk.next(), &out.superseded
	a.lookAgain.Store(true)
	if out.Revision != "" {
		// The model itself is as it was, whatever became of its old revision.
		r.PruneNext, r.PruneFailures = time.Time{}, 0
		if out.Err != nil {
			n := l.records[out.Name].PruneFailures + 1
			r.PruneNext, r.PruneFailures = now.Add(backoff(l.cfg.Intervals, n, jitter())), n
			a.logger.Warn("remove superseded revision", "model", out.Name, "revision", out.Revision, "next", r.PruneNext, "error", errText(out.Err))
		}
		l.records[out.Name] = r
		return
	}
	if a.fencedBy(out.Err) != nil {
		r.Failures++
		r.Failure = &failure{State: StateEvicting, Reason: "its files cannot be removed: " + errText(out.Err), Hint: "look at the node's disk"}
		r.Next = now.Add(backoff(l.cfg.Intervals, r.Failures, jitter()))
		a.logger.Warn("remove model", "model", out.Name, "error", errText(out.Err))
	} else {
		r = record{Fresh: r.Fresh, Removed: r.Removed, LastUsed: r.LastUsed}
		a.events.record(event{
			Reason: EventModelEvicted, Subject: out.Name, Action: "Evict",
			Note: "removed from this node, " + sizeText(out.Freed) + " freed: " + out.Why,
		})
	}
	l.records[out.Name] = r
}

// tellChanges records what became of models since the last turn.
func (a *Agent) tellChanges(f facts, d decision) {
	l := &a.loop
	a.tellCorrupt(f)
	a.tellReadOnly(f)
	states := make(map[string]State, len(d.Models))
	for _, m := range d.Models {
		states[m.Name] = m.State
		if old := l.states[m.Name]; old != m.State {
			a.logger.Debug("model changed", "model", m.Name, "from", string(old), "to", string(m.State), "reason", redact(m.Reason))
		}
		if m.Warm && l.warm[m.Name] != m.Revision {
			if l.pulledNow(m) {
				l.warmed.add(m.Name, "warm at revision "+m.Revision+", "+sizeText(m.Bytes))
			}
			l.warm[m.Name] = m.Revision
		}
		if !m.Warm && m.State != StateAbsent {
			delete(l.warm, m.Name)
			l.warmed.drop(m.Name)
		}
	}
	if e, ok := l.warmed.due(f.Now); ok {
		a.events.record(e)
	}
	l.states = states
}

// pulledNow says that the model became warm by this process's own pull, and
// was not found warm after a restart.
func (l *loopState) pulledNow(m modelState) bool {
	return l.records[m.Name].PulledRevision == m.Revision
}

// writeStatuses writes what pods on this node wait for, and the heartbeat.
func (a *Agent) writeStatuses(now time.Time, d decision) {
	l := &a.loop
	if now.Sub(l.beat) >= l.cfg.Intervals.Heartbeat {
		l.beat = now
		beat := a.heartbeat(now)
		a.scribe.put("heartbeat", func() error { return a.fencedBy(a.o.Store.WriteHeartbeat(beat)) })
	}
	current := make(map[string]bool, len(d.Models))
	for _, m := range d.Models {
		current[m.Name] = true
		st := statusOf(m)
		if l.statuses[m.Name] == st {
			continue
		}
		l.statuses[m.Name] = st
		st.Time = now.UTC()
		a.scribe.put("status of "+m.Name, func() error { return a.o.Store.WriteStatus(st) })
	}
	for name := range l.statuses {
		if !current[name] {
			delete(l.statuses, name)
			a.scribe.put("status of "+name, func() error { return a.o.Store.RemoveStatus(name) })
		}
	}
}

// statusOf is what is said to those who wait for a model on this node.
func statusOf(m modelState) store.Status {
	st := store.Status{Name: m.Name, State: string(m.State), Reason: oneLine(m.Reason, maxReason), Hint: oneLine(m.Hint, maxHint), Code: m.Code}
	switch {
	case m.Progress != nil:
		st.Bytes, st.Total, st.Rate = m.Progress.Done, m.Progress.Total, m.Progress.Rate
	case m.Revision != "":
		st.Bytes, st.Total = m.Bytes, m.Bytes
	}
	return st
}
