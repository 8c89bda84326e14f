package faults

import (
	"context"
	"errors"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"
)

const (
	contSignal = syscall.SIGCONT
	killSignal = syscall.SIGKILL
)

// bound is how long a label may lie while an agent runs that could correct it.
// With the intervals of a cluster it is a minute, twice the time between two
// looks; the intervals here are a sixtieth of that, the rest is for a machine
// that does something else meanwhile.
const bound = 5 * time.Second

// rotBound is how long a label may lie where only reading shows it: two cycles of
// the scrub, of which the first may have been past the byte, and the same again
// because it is slower while something is pulled.
const rotBound = 20 * time.Second

// lies are the labels that promise what is not there.
type lies struct {
	mu  sync.Mutex
	all map[string]*lie // by model
	// ofMemory are the labels that say ram of what is not there, and for how long.
	ofMemory map[string]time.Duration
}

// lie is one of them.
type lie struct {
	why string
	// seen is for how long an agent ran that could have corrected it.
	seen time.Duration
}

// exposed starts the count anew: from now on nobody can correct a label, or
// only from now on somebody can.
func (w *world) exposed() {
	w.lies.mu.Lock()
	defer w.lies.mu.Unlock()
	for _, l := range w.lies.all {
		l.seen = 0
	}
	for name := range w.lies.ofMemory {
		w.lies.ofMemory[name] = 0
	}
}

// excuse is why a label may go, or may lie for a while.
type excuse struct {
	// unwanted: the label must go.
	unwanted bool
	// damaged: the harness broke something, so the label may lie for a while;
	// rotten: something that stat does not show.
	damaged, rotten bool
	// at is when it last did.
	at time.Time
}

// excuses are what the harness did to models since everything was right.
type excuses struct {
	mu  sync.Mutex
	all map[string]excuse
}

// damage says, before the deed, that the harness breaks files of models.
func (w *world) damage(names ...string) {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	for _, name := range names {
		e := w.excuses.all[name]
		e.damaged, e.at = true, time.Now()
		w.excuses.all[name] = e
	}
}

// drop says, before the deed, that the label of a model may go.
func (w *world) drop(names ...string) {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	for _, name := range names {
		e := w.excuses.all[name]
		e.unwanted = true
		w.excuses.all[name] = e
	}
}

func (w *world) excused(name string) bool {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	e := w.excuses.all[name]
	return e.unwanted || e.damaged
}

// rot says, before the deed, that the harness changes bytes and nothing else.
func (w *world) rot(names ...string) {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	for _, name := range names {
		w.excuses.all[name] = excuse{unwanted: w.excuses.all[name].unwanted, damaged: true, rotten: true, at: time.Now()}
	}
}

// bound is how long the label of a model may lie now.
func (w *world) bound(name string) time.Duration {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	if w.excuses.all[name].rotten {
		return rotBound
	}
	return bound
}

func (w *world) damaged(name string) bool {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	return w.excuses.all[name].damaged
}

// justDamaged says that the agent may not have seen yet what the harness broke.
func (w *world) justDamaged(name string) bool {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	e := w.excuses.all[name]
	return e.damaged && time.Since(e.at) < 2*time.Second
}

// noExcuse is when the Node says what it should of the models that are promised.
// A byte that rotted in one that is published and not promised, as when its entry
// has left the list, may not have been read yet.
func (w *world) noExcuse(promised map[string]string) {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	maps.DeleteFunc(w.excuses.all, func(name string, e excuse) bool {
		_, known := promised[name]
		return known || !e.rotten || time.Since(e.at) > rotBound
	})
	for name, e := range w.excuses.all {
		e.unwanted = false
		w.excuses.all[name] = e
	}
}

// watchLabels compares labels with bytes until ctx ends.
func (w *world) watchLabels(ctx context.Context) {
	last := time.Now()
	for w.tick(ctx, 150*time.Millisecond) {
		w.source.Mark(time.Now())
		w.checkLabels(ctx, time.Since(last))
		last = time.Now()
	}
}

// checkLabels compares each label with the bytes that it promises. passed is
// the time since the last look; a machine that was busy elsewhere does not make
// the agent late.
func (w *world) checkLabels(ctx context.Context, passed time.Duration) {
	w.diskMu.RLock()
	defer w.diskMu.RUnlock()
	before, err := w.getNode(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.fail("read the Node: %v", err)
		}
		return
	}
	found := map[string]string{}
	for name, revision := range ordeal.Promises(before.Labels) {
		if err := w.checkPromise(name, revision); err != nil {
			found[name] = err.Error()
		}
	}
	forgotten := w.checkMemory(before.Labels)
	if len(found)+len(forgotten) > 0 {
		// What went meanwhile was no lie.
		after, err := w.getNode(ctx)
		if err != nil {
			return
		}
		now, then := ordeal.Promises(after.Labels), ordeal.Promises(before.Labels)
		maps.DeleteFunc(found, func(name, _ string) bool { return now[name] != then[name] })
		still := remembered(after.Labels)
		maps.DeleteFunc(forgotten, func(name, _ string) bool { return now[name] != then[name] || !still[name] })
	}
	w.judgeMemory(forgotten, min(passed, 300*time.Millisecond))
	w.judge(found, min(passed, 300*time.Millisecond))
}

func (w *world) checkPromise(name, revision string) error {
	path, err := w.reader.Revision(name, revision)
	if err != nil {
		return err
	}
	return w.reader.Check(path, w.source)
}

// judge counts for how long labels have lied.
func (w *world) judge(found map[string]string, passed time.Duration) {
	if !w.canCorrect() {
		passed = 0
	}
	w.lies.mu.Lock()
	defer w.lies.mu.Unlock()
	for name, l := range w.lies.all {
		if _, still := found[name]; !still {
			w.note("the label of %s tells the truth again after %s", name, l.seen.Round(10*time.Millisecond))
			delete(w.lies.all, name)
		}
	}
	for name, why := range found {
		l := w.lies.all[name]
		if l == nil {
			l = &lie{}
			w.lies.all[name] = l
			w.note("the label of %s lies: %s", name, why)
			if !w.damaged(name) {
				w.fail("the label of %s promises what the harness did not break: %s", name, why)
			}
		}
		l.why = why
		l.seen += passed
		if l.seen > w.bound(name) {
			w.fail("the label of %s has lied for %s: %s", name, l.seen, why)
		}
	}
}

// canCorrect says whether an agent runs that reaches disk and API server.
func (w *world) canCorrect() bool {
	p := w.agent.Load()
	return p != nil && !p.stopped.Load() && w.api.Fault() == (ordeal.APIFault{}) && !w.disk.frozen.Load()
}

// checkPublished demands that whatever is published is completely there, unless
// the harness broke it: labelled or not.
func (w *world) checkPublished() {
	w.diskMu.RLock()
	defer w.diskMu.RUnlock()
	if w.diskState.Load() != nil {
		return
	}
	paths, err := w.reader.Manifests("")
	if err != nil {
		w.fail("list the manifests: %v", err)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || w.damaged(modelOf(path)) {
			continue
		}
		if err := w.reader.Check(path, w.source); err != nil {
			// The agent may have removed it meanwhile: the manifest goes first.
			if now, statErr := os.Stat(path); statErr == nil && os.SameFile(now, info) {
				w.fail("what is published is not there: %v", err)
			}
		}
	}
}

// checkDownloads demands that little was downloaded twice.
func (w *world) checkDownloads() {
	for _, text := range w.source.TooMuch() {
		w.fail("%s", text)
	}
}

// converge ends every fault and waits until the Node says what it should, and
// goes on saying it; then nothing is excused any more.
func (w *world) converge() {
	w.heal()
	want, remember := w.wanted(), w.toRemember()
	const limit, settle = 90 * time.Second, 1200 * time.Millisecond
	deadline := time.Now().Add(limit)
	var since time.Time
	for since.IsZero() || time.Since(since) < settle {
		if !w.tick(w.t.Context(), 50*time.Millisecond) {
			return
		}
		n, err := w.getNode(w.t.Context())
		if err != nil {
			w.fail("read the Node: %v", err)
			return
		}
		w.lies.mu.Lock()
		right := maps.Equal(ordeal.Promises(n.Labels), want) && maps.Equal(remembered(n.Labels), remember) && len(w.lies.all)+len(w.lies.ofMemory) == 0
		w.lies.mu.Unlock()
		switch {
		case right && since.IsZero():
			since = time.Now()
		case !right:
			since = time.Time{}
		}
		if !right && time.Now().After(deadline) {
			w.fail("%s after the last fault the Node says %v, in memory %v, should say %v, in memory %v",
				limit, ordeal.Promises(n.Labels), remembered(n.Labels), want, remember)
			return
		}
	}
	w.checkDownloads()
	w.noExcuse(want)
	here, err := w.reader.Blobs()
	if err != nil {
		w.fail("list the blobs: %v", err)
	}
	w.source.Settled(here)
	w.checkPublished()
}
