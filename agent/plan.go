package agent

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// claimName is the volume claim through which pods read the store.
const claimName = "stoker-models"

// plan decides, from what is known, what this node should hold and what is to
// be done about it now. It is a pure function.
func plan(f facts) decision {
	p := planner{facts: f, demand: map[string]int{}, here: map[string]int{}, left: map[string]bool{}}
	p.out.Leave = map[departure]bool{}
	p.readPods()
	for i, m := range f.List {
		switch {
		case f.Shared.Sealed:
			p.sealed(m)
		case f.Shared.follows():
			p.follow(m)
		default:
			p.listed(i, m)
		}
	}
	p.unlisted()
	if !f.Shared.follows() {
		p.makeRoom()
	}
	slices.Sort(p.out.Remove)
	if p.labelWithoutManifest() {
		p.out.Remove, p.out.Prune = nil, nil
	}
	if f.Shared.follows() {
		p.out.Cancel, p.waiting = nil, nil
	}
	p.assign()
	p.ram()
	slices.SortFunc(p.out.Models, func(a, b modelState) int { return cmp.Compare(a.Name, b.Name) })
	return p.out
}

type planner struct {
	facts
	// demand are pods by the models that they name, here those of this node: on a
	// shared volume, the writer counts pods of all nodes.
	demand  map[string]int
	here    map[string]int
	holdAll bool // a pod here may use any model
	waiting []candidate
	needy   []needy
	left    map[string]bool // models that make room for others
	// roomMade: room is being made for a model of the priority roomFor.
	roomMade bool
	roomFor  int
	out      decision
}

// find returns the index of a model in what was decided so far, or -1.
func (p *planner) find(name string) int {
	return slices.IndexFunc(p.out.Models, func(m modelState) bool { return m.Name == name })
}

// candidate is a model whose pull could start if there is a slot.
type candidate struct {
	order
	index  int
	demand bool
	// again is when a pull that has failed could be tried again; zero: it has not, or
	// for want of room only, which has an order of its own.
	again time.Time
}

func (p *planner) readPods() {
	for i, pod := range slices.Concat(p.Pods, p.Shared.Elsewhere) {
		if pod.over() {
			continue
		}
		names := pod.models()
		for _, name := range names {
			p.demand[name]++
			if i < len(p.Pods) {
				p.here[name]++
			}
		}
		if len(names) == 0 && slices.Contains(pod.Claims, claimName) {
			p.holdAll = true
		}
	}
}

// listed decides about one entry of the list.
func (p *planner) listed(index int, m Model) {
	r := p.Memory[m.Name]
	s := modelState{Name: m.Name, Model: m, Listed: true, State: StateAbsent, Pods: p.here[m.Name]}
	selected := len(m.NodeSelector) == 0 || (p.NodeKnown && m.selects(p.NodeLabels))
	s.Wanted = selected || s.Pods > 0
	s.Held, s.Used = s.Wanted || p.Shared.Writes, p.demand[m.Name] > 0
	have, published := p.Store.Value.Models[m.Name]
	published = published && p.Store.Known
	mine := published && sameSource(m, have.Manifest)
	stale := p.Store.Gen < r.Fresh
	removed := stale && r.Removed != nil && r.Removed.Revision == ""
	good := mine && have.Err == nil && !p.Removing[m.Name] && !removed
	running, isRunning := p.Running[m.Name]
	if mine {
		s.Revision, s.Bytes, s.Size, s.SizeErr = have.Manifest.Revision, have.Manifest.Bytes, have.Size, have.SizeErr
	}
	s.Warm = good && s.Wanted
	if p.Shared.Writes && mine && len(have.Old) > 0 {
		// No Node may say one of these. What is looked up or pulled meanwhile must not
		// have the wait for that begin anew.
		p.out.Leave[departure{Model: m.Name, Except: shortRevision(have.Manifest.Revision)}] = true
	}
	if p.Shared.Writes && (p.Removing[m.Name] || removed || published && (!mine || errors.Is(have.Err, store.ErrCorrupt))) {
		p.out.Leave[departure{Model: m.Name}] = true // for as long as it lasts
	}

	switch {
	case p.Removing[m.Name]:
		s.State, s.Reason = StateEvicting, "its files are being removed"
	case isRunning:
		p.whileRunning(&s, running)
		if good && running.Lookup {
			p.prune(&s, have.Manifest) // a source that is looked up often would else keep everything
		}
	case !p.Store.Known:
		p.withoutStore(&s)
	case removed:
		s.State, s.Reason = StateEvicting, "its files have just been removed"
	case stale:
		// The agent itself has just changed this model; what the store looked
		// like before that says nothing about what to do next.
		s.State = StateVerifying
		if s.Warm {
			s.State = StateWarm
		}
	case !s.Held:
		p.unwanted(&s, published, len(m.NodeSelector) > 0 && !p.NodeKnown)
	case good:
		p.whenGood(&s, index, have.Manifest, r)
	case published && have.Err != nil && !errors.Is(have.Err, store.ErrCorrupt):
		s.State, s.Reason = StateFailed, "its files cannot be checked: "+errText(have.Err)
		s.Hint = "look at the node's disk"
	case published && p.promised(m.Name):
		// Its files changed, or belong to another source: first the label goes.
		s.State, s.Reason = StateQueued, "its label is being withdrawn before its files are pulled again"
	default:
		s.State = StateQueued
		if mine {
			s.Reason = "files changed behind the agent's back: " + errText(have.Err)
		}
		p.want(&s, index, r, false)
	}
	if !s.Wanted && (s.State == StateWarm || s.State == StateUpdating) {
		s.State, s.Reason = StateSkipped, notSelected // held for other nodes
	}
	p.out.Models = append(p.out.Models, s)
}

// promised says whether a label on the Node may promise the model; it may as
// long as no write was confirmed.
// On a shared volume, whoever asks is about to take its files: then no other Node
// may promise it either.
func (p *planner) promised(name string) bool {
	own := !p.PromiseKnown || p.Promised[name]
	if p.Shared.Writes {
		leaves := departure{Model: name}
		p.out.Leave[leaves] = true
		return own || !p.Shared.Gone[leaves]
	}
	return own
}

func (p *planner) whileRunning(s *modelState, running pulling) {
	s.Progress = &running
	switch {
	case s.Warm && running.Lookup:
		s.State = StateWarm
	case s.Warm:
		s.State = StateUpdating
	case running.Phase == fetcher.PhaseVerifying || running.Phase == fetcher.PhasePublishing:
		s.State = StateVerifying
	default:
		s.State = StatePulling
	}
	if running.Failing != "" {
		s.Reason, s.Hint = "it is tried again: "+running.Failing, running.Hint
	}
	if running.Transfer != s.Model.transfer() {
		s.Reason = "the list entry changed: the pull starts anew"
		p.out.Cancel = append(p.out.Cancel, s.Name)
		return
	}
	// A node that is not known may well be selected.
	if !s.Held && p.PodsKnown && p.NodeKnown {
		s.State, s.Reason = StateSkipped, notSelected
		p.out.Cancel = append(p.out.Cancel, s.Name)
	}
}

func (p *planner) withoutStore(s *modelState) {
	s.State = StateAbsent
	s.Reason = "the store has not been read yet"
	if p.Store.Err != nil {
		s.State, s.Reason = StateFailed, "the store cannot be read: "+errText(p.Store.Err)
		s.Hint = "look at the node's disk"
	}
}

// whenGood decides about a model whose published files are right.
func (p *planner) whenGood(s *modelState, index int, have store.Manifest, r record) {
	s.State = StateWarm
	p.prune(s, have)
	if !upToDate(s.Model, have, r) {
		s.State = StateUpdating
		p.want(s, index, r, false)
		s.State = StateUpdating
		return
	}
	if s.Model.Source.Pinned() {
		return
	}
	if r.Failure != nil && r.Transfer == s.Model.transfer() {
		// Being unable to look again takes nothing from what is here.
		s.Reason, s.Hint, s.Next = "it cannot be brought up to date: "+r.Failure.Reason, r.Failure.Hint, r.Next
	}
	at := r.LookedUp.Add(s.Model.Refresh - r.Early)
	if r.Next.After(at) {
		at = r.Next
	}
	due := !p.Now.Before(at)
	if !due {
		p.wakeAt(at)
	}
	c := candidate{order: order{Model: s.Model, Lookup: true}, index: index}
	if r.Failure != nil && r.Failure.NoRoom == nil {
		c.again = r.Next
	}
	switch {
	case r.Failure != nil && r.Failure.NoRoom != nil && r.Transfer == s.Model.transfer():
		p.needy = append(p.needy, needy{candidate: c, refused: r.Failure.NoRoom, due: due})
	case due:
		p.waiting = append(p.waiting, c)
	}
}

// want queues a pull, unless an earlier attempt at the same entry failed and
// its time has not come.
func (p *planner) want(s *modelState, index int, r record, lookup bool) {
	c := candidate{order: order{Model: s.Model, Lookup: lookup}, index: index, demand: s.Used}
	failed, due := r.Failure != nil && r.Transfer == s.Model.transfer(), !p.Now.Before(r.Next)
	if failed && r.Failure.NoRoom == nil {
		c.again = r.Next
	}
	if failed && (!due || r.Failure.NoRoom != nil) {
		s.State, s.Reason, s.Hint, s.Code, s.Next = r.Failure.State, r.Failure.Reason, r.Failure.Hint, r.Failure.Code, r.Next
		if !due {
			p.wakeAt(r.Next)
		}
	}
	if !failed && !c.demand && p.Now.Before(r.NotBefore) {
		s.Reason = "it is new in the list: the nodes of a fleet begin one after the other"
		p.wakeAt(r.NotBefore)
		return
	}
	switch {
	case failed && r.Failure.NoRoom != nil:
		p.needy = append(p.needy, needy{candidate: c, refused: r.Failure.NoRoom, due: due})
	case !failed || due:
		p.waiting = append(p.waiting, c)
	}
}

// assign gives the free slots to the most urgent candidates. One that a pod
// here waits for may take the slot of one that no pod waits for.
func (p *planner) assign() {
	slices.SortStableFunc(p.waiting, moreUrgent)
	free := p.Concurrent - len(p.Running)
	for _, c := range p.waiting {
		if p.roomMade && !c.demand && !c.Lookup && c.Model.Priority < p.roomFor {
			if i := p.find(c.Model.Name); p.out.Models[i].Reason == "" {
				p.out.Models[i].Reason = "it waits until a more important model has found room"
			}
			continue
		}
		if free > 0 {
			free--
			p.out.Start = append(p.out.Start, c.order)
			continue
		}
		if !c.demand || len(p.out.Cancel) > 0 {
			break // one at a time: the slot is free at the next turn
		}
		if victim := p.leastUrgent(); victim != "" {
			p.out.Cancel = append(p.out.Cancel, victim)
		}
		break
	}
}

// moreUrgent orders candidates. Of the same priority, those that have failed come last,
// and take turns: sources that hang would hold all slots before others are tried.
func moreUrgent(a, b candidate) int {
	return cmp.Or(
		boolFirst(a.demand, b.demand),
		boolFirst(!a.Lookup, !b.Lookup),
		cmp.Compare(b.Model.Priority, a.Model.Priority),
		a.again.Compare(b.again),
		cmp.Compare(a.index, b.index),
	)
}

// leastUrgent is the running pull of lowest priority that no pod waits for.
func (p *planner) leastUrgent() string {
	victim, lowest := "", 0
	for _, m := range p.List {
		if _, runs := p.Running[m.Name]; !runs || p.demand[m.Name] > 0 {
			continue
		}
		if victim == "" || m.Priority <= lowest {
			victim, lowest = m.Name, m.Priority
		}
	}
	return victim
}

func (p *planner) wakeAt(t time.Time) {
	if p.out.Wake.IsZero() || t.Before(p.out.Wake) {
		p.out.Wake = t
	}
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
