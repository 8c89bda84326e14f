package sharedfaults

import (
	"maps"
	"sync"
	"time"
)

// How long a label may lie while an agent runs that could correct it. With the
// intervals of a cluster a minute, of which the intervals here are a sixtieth; beside
// that there are the mount's caches, the time after which a call counts as hanging
// (2 s), and a machine that does something else meanwhile.
const bound = 6*time.Second + cached

// rotBound is how long a label may lie where only reading shows it: two cycles of
// the scrub, of which the first may have been past the byte, and the same again
// because it is slower while something is pulled.
const rotBound = 20 * time.Second

// excuse is why a model's labels may go, or may lie for a while.
type excuse struct {
	// unwanted: the label may go.
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

func (w *world) excuse(names []string, change func(e *excuse)) {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	for _, name := range names {
		e := w.excuses.all[name]
		change(&e)
		w.excuses.all[name] = e
	}
}

// damage says, before the deed, that the harness breaks files of models.
func (w *world) damage(names ...string) {
	w.excuse(names, func(e *excuse) { e.damaged, e.at = true, time.Now() })
}

// drop says, before the deed, that the labels of models may go.
func (w *world) drop(names ...string) { w.excuse(names, func(e *excuse) { e.unwanted = true }) }

// rot says, before the deed, that the harness changes bytes and nothing else.
func (w *world) rot(names ...string) {
	w.excuse(names, func(e *excuse) { e.damaged, e.rotten, e.at = true, true, time.Now() })
}

func (w *world) excuseOf(name string) excuse {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	return w.excuses.all[name]
}

func (w *world) excused(name string) bool {
	e := w.excuseOf(name)
	return e.unwanted || e.damaged
}

// noExcuse is for when all is well: from now on every wanted label must stay.
func (w *world) noExcuse() {
	w.excuses.mu.Lock()
	defer w.excuses.mu.Unlock()
	clear(w.excuses.all)
	for _, m := range w.members {
		m.loose.Store(false)
	}
}

// lies are the labels of a Node that promise what is not there.
type lies struct {
	mu  sync.Mutex
	all map[string]*lie // by model
}

// lie is one of them.
type lie struct {
	why string
	// seen is for how long an agent ran that could have corrected it.
	seen time.Duration
}

// exposed starts the count anew for a Node: from now on nobody can correct its
// labels, or only from now on somebody can.
func (m *member) exposed() {
	m.lies.mu.Lock()
	defer m.lies.mu.Unlock()
	for _, l := range m.lies.all {
		l.seen = 0
	}
}

func (w *world) exposed() {
	for _, m := range w.members {
		m.exposed()
	}
}

// lying counts the labels that lie.
func (w *world) lying() int {
	n := 0
	for _, m := range w.members {
		m.lies.mu.Lock()
		n += len(m.lies.all)
		m.lies.mu.Unlock()
	}
	return n
}

// untruth is what is wrong with a label at one look.
type untruth struct {
	kind untruthKind
	why  string
}

type untruthKind int

const (
	// wrongBytes: the volume does not hold what the label promises.
	wrongBytes untruthKind = iota
	// noView: the node's mount shows nothing.
	noView
	// wrongView: the volume does, and this node's mount shows something else.
	wrongView
)

// judge counts for how long labels of a Node have lied.
func (m *member) judge(found map[string]untruth, passed time.Duration) {
	m.lies.mu.Lock()
	defer m.lies.mu.Unlock()
	for name, l := range m.lies.all {
		if _, still := found[name]; !still {
			m.note("the label of %s on %s tells the truth again after %s", name, m.node, l.seen.Round(10*time.Millisecond))
			delete(m.lies.all, name)
		}
	}
	for name, u := range found {
		e := m.excuseOf(name)
		l := m.lies.all[name]
		if l == nil {
			l = &lie{}
			m.lies.all[name] = l
			m.note("the label of %s on %s lies: %s", name, m.node, u.why)
			if u.kind == wrongBytes && !e.damaged {
				m.fail("the label of %s on %s promises what the harness did not break: %s", name, m.node, u.why)
			}
		}
		l.why = u.why
		if m.canCorrect(u, e) {
			l.seen += passed
		}
		limit := bound
		if e.rotten && u.kind == wrongBytes {
			limit = rotBound
		}
		if l.seen > limit {
			m.fail("the label of %s on %s has lied for %s: %s", name, m.node, l.seen, u.why)
		}
	}
}

// canCorrect says whether an agent runs that could see what is wrong, and say so.
// What only reading shows is the writer's to find, and to write down.
func (m *member) canCorrect(u untruth, e excuse) bool {
	if !m.able() {
		return false
	}
	if u.kind == wrongBytes && e.rotten {
		writer := m.writer()
		return writer.able() && writer.view.Load() == nil
	}
	return true
}

// stillThere deletes what is no lie because the label has gone meanwhile.
func stillThere(found map[string]untruth, before, now map[string]string) {
	maps.DeleteFunc(found, func(name string, _ untruth) bool { return now[name] != before[name] })
}
