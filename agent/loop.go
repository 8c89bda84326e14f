package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher/store"
)

// loopState is what only the loop touches.
type loopState struct {
	cfg      Config
	rejected string // why the list on file is not in force
	listGen  int    // the answer about the file that was last looked at
	listData []byte // its content
	// credentials are the digests of the mounted Secrets; nil before the first
	// look.
	credentials map[string][sha256.Size]byte

	records map[string]record
	kept    memory            // what the memory file says
	states  map[string]State  // as last told, to tell changes
	warm    map[string]string // revision that was last told to be warm
	warmed  warmed            // to be told

	started time.Time
	storeOK bool // the store has answered once, or has not for long
	// readOnly remembers that a read-only store was told.
	readOnly bool
	// remembered: what earlier runs knew was taken over.
	remembered bool
	nodeSeen   nodeView
	nodeOK     bool
	nodeGen    int
	resyncIn   time.Duration // after the last reading of the Node, the next is due
	nodeErr    string
	said       sayer
	writing    utterance // the write in flight
	leaseErr   string    // why the status Lease could not be written, as logged last

	// The startup taint: since when it is known to be there, and the attempt to
	// lift it.
	coldSince     time.Time
	lifting       bool
	liftNotBefore time.Time

	// throttled are the quotas of sources that are used up.
	throttled throttled

	gpus  steady
	leaks leaks
	// measured is what replicas here took beside weights and cache, and kept what of that is written down.
	measured, measuredKept measure.Book
	// gpusWorked: NVML has listed GPUs in this container.
	gpusWorked bool
	// leaksRestored: what an earlier run reported was taken over.
	leaksRestored bool

	// held are the models that were within the budget of memory at the last turn.
	held map[string]bool
	// speed is what is said of how fast the volume reads.
	speed measuredSpeed

	statuses map[string]store.Status
	beat     time.Time
	// keepList: the configuration in force, listGood, is to be kept.
	keepList bool
	listGood []byte
}

func newLoopState(cfg Config) loopState {
	return loopState{
		cfg: cfg, records: map[string]record{}, states: map[string]State{}, warm: map[string]string{},
		statuses: map[string]store.Status{}, throttled: throttled{},
	}
}

// turn is one round of the loop: observe, plan, act, say. It never waits. It
// returns when the next one is due at the latest.
func (a *Agent) turn(ctx context.Context, now time.Time) time.Time {
	l := &a.loop
	if l.started.IsZero() {
		l.started = now
	}
	a.takeWrite(ctx, now)
	a.observeList(now)
	a.observeNode()
	a.ask(ctx, now)
	a.takeTurns(ctx, now)
	f := a.gather(now)
	if a.lookAgain.Swap(false) {
		a.disk.start(ctx, l.cfg.Intervals.Timeout, true)
	}
	d := plan(f)
	a.hideSecrets(d)
	a.promised.set(f.PromiseKnown, f.promisedAnywhere(), f.Store.Gen)
	a.depart(ctx, now, f, d)
	l.held = d.Memory.Held
	a.warmer.want(d.Memory.Targets)
	l.speed = restate(l.speed, a.speed.now())
	a.act(ctx, f, d)
	a.tellChanges(f, d)
	a.observeGPUs(now, f, d)
	next := now.Add(l.cfg.Intervals.Observe)
	if at := a.say(ctx, now, f, d); !at.IsZero() && at.Before(next) {
		next = at
	}
	if at := a.liftTaint(ctx, now, f, d); !at.IsZero() && at.Before(next) {
		next = at
	}
	if !d.Wake.IsZero() && d.Wake.Before(next) {
		next = d.Wake
	}
	if !f.Shared.follows() {
		a.writeStatuses(now, d)
		a.keepMemory(f, d)
		a.keepMeasured()
		a.keepLastGood()
		a.scribe.retry(now, l.cfg.Intervals.RetryMin)
	}
	a.show(f, d)
	// A plan that is due at once still leaves others the processor.
	if soonest := now.Add(10 * time.Millisecond); next.Before(soonest) {
		next = soonest
	}
	return next
}

// ask starts the observations that are due.
func (a *Agent) ask(ctx context.Context, now time.Time) {
	l := &a.loop
	iv := l.cfg.Intervals
	if a.list.due(now, iv.Observe) {
		a.list.start(ctx, iv.Timeout, false)
	}
	if a.devices.due(now, iv.Observe) {
		a.devices.start(ctx, iv.Timeout, false)
	}
	if a.disk.due(now, iv.Verify) {
		a.disk.start(ctx, iv.Timeout, false)
	}
	every := min(l.resyncIn, iv.Resync)
	if !l.nodeOK {
		every = min(iv.Resync, iv.RetryMin)
	}
	if a.node.due(now, every) {
		a.node.start(ctx, iv.Timeout, false)
		l.resyncIn = nextResync(l.resyncIn, iv.Resync)
	}
}

// nextResync is after how long the Node is read again; before is the last one's, 0: there
// was none. Agents that started together, or that an outage of the API server has brought
// in step, do not stay so: the first is anywhere within every, the others come up to a
// quarter early.
func nextResync(before, every time.Duration) time.Duration {
	least := every - every/4
	if before == 0 {
		least = 0
	}
	return least + rand.N(every-least) + 1
}

// observeList takes over a changed configuration if it is good. A bad one never
// replaces what is in force.
func (a *Agent) observeList(now time.Time) {
	l := &a.loop
	got := a.list.latest()
	if !got.answered() || (got.Known && got.Gen == l.listGen) {
		return
	}
	if !got.Known {
		a.rejectList(errText(got.Err))
		return
	}
	l.listGen = got.Gen
	defer func() { a.observeCredentials(now, got.Value.credentials) }() // of the list that is in force then
	if l.listData != nil && bytes.Equal(l.listData, got.Value.data) {
		return
	}
	l.listData = got.Value.data
	if got.Value.err != nil {
		a.rejectList(oneSentence(errText(got.Value.err)))
		return
	}
	l.rejected = ""
	old := l.cfg.Models
	a.adopt(got.Value.cfg)
	l.spreadNew(now, old)
	a.tryAgain(now, func(Model) bool { return true })
	a.logger.Info("take over configuration", "config", l.cfg)
	l.keepList, l.listGood = true, got.Value.data
}

func (a *Agent) rejectList(why string) {
	why = a.o.Secrets.Scrub(why)
	if a.loop.rejected == why {
		return
	}
	a.loop.rejected = why
	a.logger.Error("keep the last good configuration", "file", a.o.ConfigPath, "error", why)
	a.events.record(event{Reason: EventListRejected, Action: "ReadList", Note: "the last good model list stays in force: " + why, Warning: true})
}

// observeNode takes what is known of the Node, by reading or by a write's
// answer, whichever is later.
func (a *Agent) observeNode() {
	l := &a.loop
	got := a.node.latest()
	if !got.answered() {
		return
	}
	if !got.Known {
		if text := errText(got.Err); text != l.nodeErr {
			l.nodeErr = text
			a.logger.Error("read own node", "error", text)
		}
		if errors.Is(got.Err, errNoNode) {
			l.nodeOK = false
		}
		return
	}
	if got.Gen == l.nodeGen || got.Asked.Before(l.said.last) || l.said.inFlight {
		return // older than what a write has told, or will tell
	}
	l.nodeGen, l.nodeErr = got.Gen, ""
	a.seeNode(got.Value)
	if l.said.confirmed != nil && !got.Value.shows(*l.said.confirmed) {
		a.logger.Info("write labels again that somebody changed")
		l.said.again = true
	}
}

// seeNode takes over a view of the Node.
func (a *Agent) seeNode(v nodeView) {
	l := &a.loop
	if l.nodeSeen.UID != "" && l.nodeSeen.UID != v.UID {
		l.said.confirmed = nil // another object of the same name: nothing is said yet
		l.coldSince = time.Time{}
	}
	l.nodeSeen, l.nodeOK = v, true
	if a.inspect != nil {
		zone := v.Labels[corev1.LabelTopologyZone]
		a.inspect.zone.Store(&zone)
	}
	a.events.regarding(v.UID)
}

// gather puts together what a plan depends on.
func (a *Agent) gather(now time.Time) facts {
	l := &a.loop
	running, ended := a.pulls.collect()
	removing, removed := a.removes.collect()
	for _, out := range ended {
		a.pullEnded(now, out)
	}
	for _, out := range removed {
		a.removalEnded(now, out)
	}
	l.throttled.expire(now)
	f := facts{
		Now: now, Intervals: l.cfg.Intervals, Concurrent: l.cfg.Pull.ConcurrentModels, Limits: l.cfg.Store,
		List: l.cfg.Models, ListKnown: true,
		NodeLabels: l.nodeSeen.Labels, NodeKnown: l.nodeOK,
		Store: a.disk.latest(), Running: running, Removing: removing, Memory: l.records,
		Promised: l.nodeSeen.promises(), PromiseKnown: l.said.confirmed != nil && l.nodeOK,
		Revisions: map[string]string{},
	}
	f.Pods, f.PodsKnown = a.cluster.pods()
	f.RAM = a.ramFacts(f.Pods)
	a.sharedFacts(now, &f)
	for k, v := range l.nodeSeen.Labels {
		if name, ok := strings.CutPrefix(k, RevPrefix); ok {
			f.Revisions[name] = v
		}
	}
	if l.said.inFlight {
		maps.Copy(f.Promised, nodeView{Labels: l.writing.said.labels}.promises())
	}
	// A store that does not answer is one that nobody can read: that is said as
	// well, but not before it has had time.
	if f.Store.answered() && (f.Store.Known || !errors.Is(f.Store.Err, errStuck) || a.patient(now)) {
		l.storeOK = true
	}
	a.remember(now, f.Store)
	return f
}

// remember takes over what earlier runs knew, once the store has told it.
func (a *Agent) remember(now time.Time, st answer[storeView]) {
	l := &a.loop
	if l.remembered || !st.Known || st.Value.Memory == nil {
		return
	}
	// Of a shared volume, what counts is what the last writer knew.
	if t := a.turns; t != nil && t.ctx != nil && st.Gen < t.gen {
		return
	}
	l.remembered = true
	if err := st.Value.Memory.err; err != nil {
		// Models that are no longer listed then stay where they are.
		a.logger.Warn("go on without memory", "error", errText(err))
	}
	if l.cfg.Volume.own() { // else of another node's GPUs
		l.measured, l.measuredKept = st.Value.Memory.measured, st.Value.Memory.measured
		if err := st.Value.Memory.measuredErr; err != nil {
			a.logger.Warn("measure replicas anew", "error", errText(err))
		}
	}
	if cold := st.Value.Memory.coldSince; !cold.IsZero() && l.cfg.Volume.own() { // else another node's
		l.coldSince = notAfter(cold, now)
	}
	for name, m := range st.Value.Memory.models {
		r := l.records[name]
		r.Managed = true
		if r.LookedUp.IsZero() {
			r.LookedUp = notAfter(m.LookedUp, now)
		}
		if r.Unwanted.IsZero() {
			r.Unwanted = notAfter(m.Unwanted, now)
		}
		if r.LastUsed.IsZero() {
			r.LastUsed = notAfter(m.LastUsed, now)
		}
		l.records[name] = r
	}
}

// notAfter takes a time that was written down when the clock was ahead for now:
// what waits for it would wait until the clock is there again.
func notAfter(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}

// act does what the plan says, and remembers what the next plan must know.
func (a *Agent) act(ctx context.Context, f facts, d decision) { //nolint:contextcheck // what writes ends with the time of writing
	l := &a.loop
	for _, m := range d.Models {
		r := l.records[m.Name]
		if m.Used {
			r.LastUsed = f.Now
		}
		switch {
		case m.Held && m.Listed:
			r.Managed, r.Unwanted = true, time.Time{}
		case r.Managed && r.Unwanted.IsZero() && (f.NodeKnown || !m.Listed):
			r.Unwanted = f.Now
		}
		if m.Warm && m.Model.Refresh > 0 {
			r.spreadLookUp(f.Now, m.Model.Refresh)
		}
		l.records[m.Name] = r
	}
	for _, name := range d.Cancel {
		a.pulls.cancel(name)
	}
	if a.turns != nil && a.turns.ctx != nil {
		ctx = a.turns.ctx // what writes ends with this agent's time of writing
	}
	for _, o := range d.Start {
		have := f.Store.Value.Models[o.Model.Name].Manifest.Revision
		a.pulls.start(ctx, o, have)
	}
	for _, name := range d.Remove {
		why := d.reason(name)
		if a.removes.start(ctx, superseded{Name: name}, why) {
			a.logger.Info("remove model", "model", name, "reason", why)
		}
	}
	for _, old := range d.Prune {
		if a.removes.start(ctx, old, "") {
			a.logger.Info("remove superseded revision", "model", old.Name, "revision", old.Revision)
		}
	}
}

// patient says whether the first word has waited long enough for parts that
// may never answer.
func (a *Agent) patient(now time.Time) bool {
	return now.Sub(a.loop.started) > 2*a.loop.cfg.Intervals.Timeout
}

// keepLastGood keeps the configuration in force, once.
func (a *Agent) keepLastGood() {
	if !a.loop.keepList {
		return
	}
	a.loop.keepList = false
	data := a.loop.listGood
	a.scribe.put(LastGoodFile, func() error { return a.o.Store.WriteAgentFile(LastGoodFile, data) })
}
