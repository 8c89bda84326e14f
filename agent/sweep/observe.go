package sweep

import (
	"slices"
	"time"
)

// candidate is a node that has been without an agent for long enough, as the
// watches tell.
type candidate struct {
	node
	pods  []pod
	since time.Time
}

// observe remembers what is seen of each node, forgets nodes that are gone, and
// returns those that are due, the longest without an agent first; how many
// nodes say something of this release's agents, and how many of these have no
// ready one.
func (s *Sweeper) observe(now time.Time, nodes []node, byNode map[string][]pod) (due []candidate, labelled, bare int) {
	there := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		there[n.Name] = true
		m := s.remember(n)
		m.Pods, m.Wrote, m.Floor = byNode[n.Name], n.Wrote, s.floor
		since, isBare := m.bareSince(now)
		if isBare {
			if m.Bare.IsZero() || m.Bare.Before(s.floor) {
				m.Bare = now
			}
		} else {
			m.Attended, m.Bare = now, time.Time{}
			m.withdrawals, m.withdrawn = 0, time.Time{}
			s.everReady = true
		}
		if !n.says() || !s.mine(n) {
			continue
		}
		labelled++
		if !isBare {
			continue
		}
		bare++
		if s.overdue(now, m, since) {
			due = append(due, candidate{node: n, pods: m.Pods, since: since})
		}
	}
	for name := range s.nodes {
		if !there[name] {
			delete(s.nodes, name)
		}
	}
	slices.SortFunc(due, func(a, b candidate) int { return a.since.Compare(b.since) })
	return due, labelled, bare
}

// mine reports whether what a node says may be of this release's agents: not where
// its annotation names another release, whose agents' pods this sweeper does not see.
func (s *Sweeper) mine(n node) bool {
	return n.Release == "" || s.o.Release == (Release{}) || n.Release == s.o.Release.String()
}

// remember is what is known of this very Node object.
func (s *Sweeper) remember(n node) *memory {
	m := s.nodes[n.Name]
	if m == nil || m.uid != string(n.UID) {
		m = &memory{uid: string(n.UID)}
		s.nodes[n.Name] = m
	}
	return m
}

// overdue says whether a node that is bare since then has been so for long
// enough.
func (s *Sweeper) overdue(now time.Time, m *memory, since time.Time) bool {
	return now.Sub(latest(since, m.withdrawn)) >= patience(s.o.AgentTimeout, m.withdrawals)
}
