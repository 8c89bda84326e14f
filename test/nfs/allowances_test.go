//go:build e2e && linux

package nfs_test

import (
	"strings"
	"sync"
	"time"
)

// allowance is why a model's labels may go, or may be wrong for a while.
type allowance struct {
	// unwanted: the labels may go.
	unwanted bool
	// damaged: the test broke something; rotten: something that stat does not show.
	damaged, rotten bool
}

// allowances are what the test did to models since everything was right.
type allowances struct {
	mu  sync.Mutex
	all map[string]allowance
}

func (a *allowances) change(names []string, change func(*allowance)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string]allowance{}
	}
	for _, name := range names {
		one := a.all[name]
		change(&one)
		a.all[name] = one
	}
}

// drop allows labels to go. Like the others it is called before what it is for.
func (a *allowances) drop(names ...string) {
	a.change(names, func(one *allowance) { one.unwanted = true })
}

func (a *allowances) damage(names ...string) {
	a.change(names, func(one *allowance) { one.damaged = true })
}

func (a *allowances) rot(names ...string) {
	a.change(names, func(one *allowance) { one.damaged, one.rotten = true, true })
}

func (a *allowances) of(name string) allowance {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[name]
}

// clear is for when all is well: from now on every wanted label must stay.
func (f *fleet) clearAllowances() {
	f.allowances.mu.Lock()
	clear(f.allowances.all)
	f.allowances.mu.Unlock()
	for _, m := range f.members {
		m.loose.Store(false)
	}
}

// place is where something other than a label's promise was read.
type place string

const (
	volumeItself place = "the server's disk"
	ownView      place = "the Node's own mount"
)

// violations are the labels of a Node that promise what is not there, by place and model.
type violations struct {
	mu  sync.Mutex
	all map[string]*violation
}

type violation struct {
	why string
	// exposed is for how long an agent ran that could have taken the label away.
	exposed time.Duration
}

// restartCount starts the count anew for a Node: only from now on, or no longer, somebody can correct its labels.
func (m *member) restartCount() {
	m.violations.mu.Lock()
	defer m.violations.mu.Unlock()
	for _, v := range m.violations.all {
		v.exposed = 0
	}
}

// violated counts the labels that are wrong.
func (f *fleet) violated() int {
	n := 0
	for _, m := range f.members {
		m.violations.mu.Lock()
		n += len(m.violations.all)
		m.violations.mu.Unlock()
	}
	return n
}

// judge counts for how long labels of a Node have been wrong.
func (m *member) judge(where place, found map[string]string, passed time.Duration) {
	m.violations.mu.Lock()
	defer m.violations.mu.Unlock()
	prefix := string(where) + ": "
	for key, v := range m.violations.all {
		name, here := strings.CutPrefix(key, prefix)
		if _, still := found[name]; here && !still {
			m.note("the label of %s on %s is right again by %s after %s", name, m.node, where, v.exposed.Round(10*time.Millisecond))
			delete(m.violations.all, key)
		}
	}
	for name, why := range found {
		allowed := m.allowances.of(name)
		v := m.violations.all[prefix+name]
		if v == nil {
			v = &violation{}
			m.violations.all[prefix+name] = v
			m.note("the label of %s on %s is wrong by %s: %s", name, m.node, where, why)
			if where == volumeItself && !allowed.damaged {
				m.fail("the label of %s on %s promises what the test did not break: %s", name, m.node, why)
			}
		}
		v.why = why
		writer := m
		if allowed.rotten {
			writer = m.holder() // it finds what only reading shows
		}
		if m.able() && writer != nil && writer.able() {
			v.exposed += passed
		}
		limit := bound
		if allowed.rotten {
			limit = rotBound
		}
		if v.exposed > limit {
			m.fail("the label of %s on %s has been wrong by %s for %s: %s", name, m.node, where, v.exposed, why)
		}
	}
}
