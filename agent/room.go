package agent

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// room is what the store may still take, in bytes, before it crosses its quota
// or the reserve of its file system; limit names the tighter one.
func (c StoreConfig) room(u store.Usage) (room int64, limit string) {
	reserve := c.Reserve.Of(u.TotalBytes)
	room = u.FreeBytes - reserve
	limit = fmt.Sprintf("less than the reserve of %s stays free on the store's file system", sizeText(reserve))
	if c.Quota > 0 && c.Quota-u.StoreBytes < room {
		room = c.Quota - u.StoreBytes
		limit = fmt.Sprintf("the store's quota of %s is used up", sizeText(c.Quota))
	}
	return room, limit
}

// needy is a model whose pull was refused because there was no room for it.
type needy struct {
	candidate
	refused *NoRoom
	// due: the next try is due whether there is room or not, because the source
	// may have become smaller.
	due bool
}

// leaving is something that could leave the store so that a needy model fits:
// a model, or with Revision one superseded revision of it.
type leaving struct {
	superseded
	// kept: the list still wants it here, so only one of higher priority may
	// take its place.
	kept     bool
	priority int
	used     time.Time
	// revisions are what would be taken out.
	revisions []store.Manifest
}

// tally counts what the store would be rid of.
type tally struct {
	refs map[string]int // of content, by digest
	gone map[superseded]bool
	gain int64 // in bytes
}

// tally counts the references to all content of the store, less what is being
// removed: that is gone soon, and nothing else need leave in its place.
func (p *planner) tally() *tally {
	t := &tally{refs: map[string]int{}, gone: map[superseded]bool{}}
	for _, have := range p.Store.Value.Models {
		t.count(have.Manifest, 1)
		for _, old := range have.Old {
			t.count(old, 1)
		}
	}
	for name, have := range p.Store.Value.Models {
		going := p.Memory[name].Removed
		if p.Store.Gen >= p.Memory[name].Fresh {
			going = nil // the look has seen what became of it
		}
		whole := p.Removing[name] || going != nil && going.Revision == ""
		for _, m := range append(slices.Clip(have.Old), have.Manifest) {
			if whole || going != nil && going.Revision == m.Revision {
				t.take(m)
			}
		}
	}
	return t
}

// take lets one revision go; a second time changes nothing.
func (t *tally) take(m store.Manifest) {
	key := superseded{Name: m.Name, Revision: m.Revision}
	if !t.gone[key] {
		t.gone[key] = true
		t.gain += t.count(m, -1)
	}
}

// count adds by to the references of a revision's content, and returns how many
// bytes have none then.
func (t *tally) count(m store.Manifest, by int) int64 {
	var freed int64
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if seen[f.SHA256] {
			continue
		}
		seen[f.SHA256] = true
		if t.refs[f.SHA256] += by; t.refs[f.SHA256] == 0 {
			freed += f.Size
		}
	}
	return freed
}

// makeRoom decides about the models for which there was no room: the most
// urgent one is pulled if there is room by now, or things that are less
// important leave for it, if that is enough. What leaves is what nobody wants
// any more, then by priority, then what was used least recently; never what a
// pod here may use, and never what the list wants at the same or a higher
// priority.
func (p *planner) makeRoom() {
	for name, run := range p.Running {
		if r := p.Memory[name]; !run.Admitted && r.Failure != nil && r.Failure.NoRoom != nil {
			if i := p.find(name); i >= 0 {
				p.holdBack(p.out.Models[i].Model.Priority)
			}
		}
	}
	slices.SortStableFunc(p.needy, func(a, b needy) int { return moreUrgent(a.candidate, b.candidate) })
	room := p.freeRoom()
	for _, n := range p.needy {
		if p.left[n.Model.Name] {
			continue // it makes room itself
		}
		need := n.refused.Need
		s := &p.out.Models[p.find(n.Model.Name)]
		switch {
		case need <= room && room > n.refused.Room && p.settled():
			// More than there was when it was refused: it need not wait.
			room -= need
			n.due = true
			p.holdBack(n.Model.Priority)
		case p.roomMade || n.refused.Busy && need <= room+p.taking():
			// One at a time; and what is here need not leave if it is pulls
			// under way that hold the room.
		case p.evictFor(n, need-room):
			p.holdBack(n.Model.Priority)
			continue
		}
		if n.due {
			s.reset()
			p.waiting = append(p.waiting, n.candidate)
		}
	}
}

// holdBack keeps models of lower priority from taking the room that is made,
// or has just been made, for one of this priority.
func (p *planner) holdBack(priority int) {
	if !p.roomMade || priority > p.roomFor {
		p.roomMade, p.roomFor = true, priority
	}
}

// freeRoom is what a pull that starts now may take, in bytes.
func (p *planner) freeRoom() int64 {
	if !p.Store.Known {
		return 0
	}
	room, _ := p.Limits.room(p.Store.Value.Usage)
	return room - p.taking()
}

// taking is what running pulls would still take when the store was measured: what
// has arrived since then is in no measure yet, and would look like room.
func (p *planner) taking() int64 {
	var sum int64
	for name, run := range p.Running {
		if !run.Admitted {
			continue
		}
		if left, seen := p.Store.Value.Taking[name]; seen {
			sum += left
		} else {
			sum += run.Reserved
		}
	}
	return sum
}

// settled says that the store was measured after all that the agent itself has
// changed.
func (p *planner) settled() bool {
	for _, r := range p.Memory {
		if p.Store.Gen < r.Fresh {
			return false
		}
	}
	return true
}

// evictFor lets as much leave as a needy model lacks; nothing if all that may
// leave is not enough.
func (p *planner) evictFor(n needy, lack int64) bool {
	if !p.PodsKnown || !p.Store.Known || p.holdAll || lack <= 0 {
		return false
	}
	t := p.tally()
	var chosen []leaving
	for _, l := range p.mayLeave(n) {
		if t.gain >= lack {
			break
		}
		chosen = append(chosen, l)
		for _, m := range l.revisions {
			t.take(m)
		}
	}
	i := p.find(n.Model.Name)
	if t.gain < lack {
		if t.gain > 0 {
			p.out.Models[i].Reason += fmt.Sprintf("; letting go of all that is less important would free %s", sizeText(t.gain))
		}
		return false
	}
	s := &p.out.Models[i]
	s.reset()
	s.Reason = fmt.Sprintf("room is being made for it: %s are needed", sizeText(n.refused.Need))
	for _, l := range chosen {
		p.leave(l, n)
	}
	return true
}

// mayLeave lists what may leave for a needy model, in the order in which it
// would.
func (p *planner) mayLeave(n needy) []leaving {
	var out []leaving
	for name, have := range p.Store.Value.Models {
		i := p.find(name)
		run, running := p.Running[name]
		r := p.Memory[name]
		if i < 0 || (running && !run.Lookup) || p.Removing[name] || !r.Managed || p.Store.Gen < r.Fresh {
			continue
		}
		s := p.out.Models[i]
		if p.prunable(s, have.Manifest) {
			for _, old := range have.Old {
				out = append(out, leaving{superseded: superseded{Name: name, Revision: old.Revision}, revisions: []store.Manifest{old}})
			}
		}
		if name == n.Model.Name || s.Used || (s.Held && s.Model.Priority >= n.Model.Priority) {
			continue
		}
		l := leaving{superseded: superseded{Name: name}, kept: s.Held, priority: s.Model.Priority, used: r.LastUsed}
		if l.used.IsZero() {
			l.used = have.Manifest.PublishedAt
		}
		l.revisions = append(slices.Clip(have.Old), have.Manifest)
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b leaving) int {
		return cmp.Or(
			boolFirst(a.Revision != "", b.Revision != ""),
			boolFirst(!a.kept, !b.kept),
			cmp.Compare(a.priority, b.priority),
			a.used.Compare(b.used),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Revision, b.Revision),
		)
	})
	return out
}

// leave lets one thing go: a model loses its label first.
func (p *planner) leave(l leaving, n needy) {
	if l.Revision != "" {
		if !slices.Contains(p.out.Prune, l.superseded) && !p.Now.Before(p.Memory[l.Name].PruneNext) {
			p.out.Prune = append(p.out.Prune, l.superseded)
		}
		return
	}
	p.left[l.Name] = true
	s := &p.out.Models[p.find(l.Name)]
	s.State, s.Warm, s.Next, s.Hint, s.Code = StateEvicting, false, time.Time{}, "", ""
	s.Reason = fmt.Sprintf("it makes room for %s, which has priority %d", n.Model.Name, n.Model.Priority)
	p.waiting = slices.DeleteFunc(p.waiting, func(c candidate) bool { return c.Model.Name == l.Name })
	p.out.Prune = slices.DeleteFunc(p.out.Prune, func(o superseded) bool { return o.Name == l.Name })
	r := p.Memory[l.Name]
	if s.Progress != nil {
		// Its revision is being looked up, which is no longer of interest.
		s.Progress = nil
		p.out.Cancel = append(p.out.Cancel, l.Name)
		return
	}
	switch {
	case p.promised(l.Name):
		s.Reason += "; its label is being withdrawn first" + p.Shared.carriers(l.Name)
	case r.Failure != nil && r.Failure.State == StateEvicting && p.Now.Before(r.Next):
		s.Reason, s.Hint, s.Next = r.Failure.Reason, r.Failure.Hint, r.Next
		p.wakeAt(r.Next)
	case !slices.Contains(p.out.Remove, l.Name):
		p.out.Remove = append(p.out.Remove, l.Name)
	}
}
