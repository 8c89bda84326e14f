package agent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/fetcher/store"
)

// What becomes of a model that is to be in memory: the states of the metric
// stoker_model_ram_state and of [ModelStatus].
const (
	// RAMResident: it is there.
	RAMResident = "resident"
	// RAMReading: it is being read.
	RAMReading = "reading"
	// RAMLeaves: it was read, and does not stay.
	RAMLeaves = "leaves"
	// RAMUnmeasured: it is not known yet, or not any more.
	RAMUnmeasured = "unmeasured"
	// RAMUnmeasurable: nobody can tell on this volume.
	RAMUnmeasurable = "unmeasurable"
	// RAMOverBudget, and the next three: it does not fit, because of what the
	// settings allow, pods have asked for, is in use, or limits the agent itself.
	RAMOverBudget = "over-budget"
	RAMOverPods   = "over-pods"
	RAMOverUse    = "over-use"
	RAMOverLimit  = "over-agent-limit"
)

const (
	// ramFrom is the share of a model's bytes that must be in memory before that is
	// said, ramUntil the one below which it is no longer said.
	ramFrom  = 0.98
	ramUntil = 0.90
	// freeShare of the machine's memory is left alone: one part in so many.
	freeShare = 20
	// ownShare is how much of its cgroup's memory limit the agent leaves to itself:
	// one part in so many, and no more than ownMost.
	ownShare = 2
	ownMost  = 1 << 30
	// newcomer is how much more room a model needs to be taken in than to stay, in
	// percent: what is free is never still.
	newcomer = 5
)

// ramFacts are what is known of the node's memory.
type ramFacts struct {
	Config RAMConfig
	// Memory is what the kernel says, MemoryErr why that is not known.
	Memory    headroom.State
	MemoryErr error
	// Measured is false before the first measurement.
	Measured bool
	// Allocatable is what the Node can give to pods, Asked what pods on it have
	// asked for, the agent's own left out; 0: not known.
	Allocatable int64
	Asked       int64
	// Resident is what was measured of each model.
	Resident map[string]residency
	// Held are the models that were within the budget at the last turn.
	Held map[string]bool
	// Stale is the age from which a measurement is not believed.
	Stale time.Duration
}

// residency is how much of a model is in memory.
type residency struct {
	Revision string
	// Bytes of Size, each content counted once.
	Bytes, Size int64
	// At is when it was measured; Err why it could not be.
	At  time.Time
	Err error
	// Leaves says that it was read whole and yet is not there.
	Leaves bool
}

// ramFacts puts together what is known of the node's memory.
func (a *Agent) ramFacts(pods []pod) ramFacts {
	l := &a.loop
	view := a.warmer.seen()
	f := ramFacts{
		Config: l.cfg.RAM, Memory: view.Memory, MemoryErr: view.MemoryErr, Measured: view.Measured,
		Allocatable: l.nodeSeen.Memory, Resident: view.Resident, Held: l.held,
		Stale: time.Minute + 4*max(view.Every, l.cfg.Intervals.Residency),
	}
	for _, p := range pods {
		if !p.over() && (a.o.PodUID == "" || p.UID != a.o.PodUID) {
			f.Asked += p.Memory
		}
	}
	return f
}

// ramKnown says whether the first word need not wait for a measurement: else a
// restart would take a tier back that is true.
func (a *Agent) ramKnown(now time.Time, d decision) bool {
	if a.loop.said.confirmed != nil || a.patient(now) {
		return true
	}
	resident := a.warmer.seen().Resident
	for _, t := range d.Memory.Targets {
		if r, ok := resident[t.Manifest.Name]; !ok || r.Revision != t.Manifest.Revision {
			return false
		}
	}
	return true
}

// share is how much of it is there, from 0 to 1.
func (r residency) share() float64 {
	if r.Size <= 0 && r.Err == nil && !r.At.IsZero() {
		return 1 // nothing is missing of nothing
	}
	if r.Size <= 0 {
		return 0
	}
	return float64(r.Bytes) / float64(r.Size)
}

// inRAM decides whether to say that a model is in memory: from 98% on, and then
// until it is less than 90%.
func inRAM(said bool, share float64) bool {
	if said {
		return share >= ramUntil
	}
	return share >= ramFrom
}

// ramBudget is how much of the models may be held in memory.
type ramBudget struct {
	Bytes int64
	// Bound is what bounds it, and Why that as the end of a sentence.
	Bound, Why string
}

// budget is the least of what the settings allow, what pods leave free by what they
// have asked for, what is not in use now, and what the agent's own memory limit
// leaves. Numbers stand in its reason only where they stay the same for a while.
func (f ramFacts) budget() ramBudget {
	if f.Config.Budget == (Share{}) {
		return ramBudget{Bound: RAMOverBudget, Why: "agent.ram.budget is not set"}
	}
	if f.Config.Budget.Bytes == 0 && f.Allocatable <= 0 {
		return ramBudget{Bound: RAMUnmeasured, Why: "the Node does not say how much memory it can allocate, of which agent.ram.budget is a share"}
	}
	b := ramBudget{Bytes: f.Config.Budget.Of(f.Allocatable), Bound: RAMOverBudget}
	b.Why = "agent.ram.budget is " + sizeText(b.Bytes)
	bound := func(bytes int64, by, why string) {
		if bytes = max(0, bytes); bytes < b.Bytes {
			b = ramBudget{Bytes: bytes, Bound: by, Why: why}
		}
	}
	if f.Allocatable > 0 {
		bound(f.Allocatable-f.Asked, RAMOverPods, fmt.Sprintf("pods on this node have asked for %s of the %s of memory that it can allocate", sizeText(f.Asked), sizeText(f.Allocatable)))
	}
	if f.MemoryErr != nil {
		bound(0, RAMUnmeasured, errText(f.MemoryErr))
		return b
	}
	bound(f.spare(), RAMOverUse, "too little of the node's memory is not in use")
	bound(f.ownRoom(), RAMOverLimit, fmt.Sprintf("the agent's memory limit is %s, of which it needs some itself; what it reads into memory counts against that", sizeText(f.Memory.Limit)))
	return b
}

// noLimit is the agent's memory limit where it has none.
const noLimit = headroom.None

// spare is what is not in use of the machine's memory, page cache included, less
// what is left alone.
func (f ramFacts) spare() int64 {
	return max(0, f.Memory.Available-f.Memory.Total/freeShare)
}

// ownRoom is what page cache may take of the agent's own memory limit.
func (f ramFacts) ownRoom() int64 {
	if f.Memory.Limit == noLimit {
		return noLimit
	}
	return f.Memory.Limit - min(f.Memory.Limit/ownShare, ownMost)
}

// ramTarget is a model whose pages in memory are measured, and brought in with Read.
type ramTarget struct {
	Manifest store.Manifest
	Read     bool
}

// ramWish is a warm model that wants to be in memory.
type ramWish struct {
	state    int // its index in what was decided
	entry    int // in the list
	manifest store.Manifest
}

// ram decides which models are held in memory, and which of them the node says are:
// by what was measured, whoever has brought them there. The budget goes to the
// highest priority first, of the same to what pods here name, then by the list's
// order; what does not fit is passed over. Shared content counts once.
func (p *planner) ram() {
	var wishes []ramWish
	for i := range p.out.Models {
		s := &p.out.Models[i]
		if !s.Warm {
			continue
		}
		s.Tier = TierDisk
		if p.Shared.On {
			s.Tier = TierShared
		}
		if s.Model.RAM {
			entry := slices.IndexFunc(p.List, func(m Model) bool { return m.Name == s.Name })
			wishes = append(wishes, ramWish{state: i, entry: entry, manifest: p.Store.Value.Models[s.Name].Manifest})
		}
	}
	slices.SortFunc(wishes, func(a, b ramWish) int {
		x, y := p.out.Models[a.state], p.out.Models[b.state]
		return cmp.Or(
			cmp.Compare(y.Model.Priority, x.Model.Priority),
			boolFirst(x.Pods > 0, y.Pods > 0),
			cmp.Compare(a.entry, b.entry),
		)
	})
	p.out.Memory.Budget = p.RAM.budget()
	var counted map[string]bool
	if len(wishes) > 0 {
		p.out.Memory.Held, counted = map[string]bool{}, map[string]bool{}
	}
	for _, w := range wishes {
		s := &p.out.Models[w.state]
		read, not := p.hold(w, counted)
		p.out.Memory.Targets = append(p.out.Memory.Targets, ramTarget{Manifest: w.manifest, Read: read})
		p.sayRAM(s, read, not)
	}
	for i := range p.out.Start {
		p.out.Start[i].Cache = p.cacheFor(p.out.Start[i].Model)
	}
}

// notHeld is why a model is not held in memory.
type notHeld struct{ state, why string }

// hold takes a model into the budget, or says why not. counted is the content that
// is in it already.
func (p *planner) hold(w ramWish, counted map[string]bool) (ok bool, not notHeld) {
	m, b := &p.out.Memory, p.out.Memory.Budget
	name := w.manifest.Name
	if r, known := p.RAM.Resident[name]; known && r.Revision == w.manifest.Revision && r.Err != nil {
		return false, notHeld{} // it cannot be measured, which is said instead
	}
	if !p.RAM.Measured && b.Bytes > 0 {
		return false, notHeld{RAMUnmeasured, "how much memory there is has not been measured yet"}
	}
	if !p.PodsKnown {
		return false, notHeld{RAMUnmeasured, "the pods of this node are not known yet"}
	}
	var size int64
	var fresh []string
	for _, f := range w.manifest.Files {
		if !counted[f.SHA256] {
			counted[f.SHA256] = true
			fresh = append(fresh, f.SHA256)
			size += f.Size
		}
	}
	need := size
	if b.Bound == RAMOverUse && !p.RAM.Held[name] {
		need += size / 100 * newcomer
	}
	if need <= b.Bytes-m.Taken {
		m.Taken += size
		m.Held[name] = true
		return true, notHeld{}
	}
	for _, sum := range fresh {
		delete(counted, sum)
	}
	others := ""
	if m.Taken > 0 {
		others = fmt.Sprintf(", beside %s of what comes first", sizeText(m.Taken))
	}
	return false, notHeld{b.Bound, fmt.Sprintf("it takes %s%s, and %s", sizeText(size), others, b.Why)}
}

// sayRAM decides the tier, or says why it is not in memory.
func (p *planner) sayRAM(s *modelState, held bool, not notHeld) {
	r, known := p.RAM.Resident[s.Name]
	known = known && r.Revision == s.Revision
	fresh := known && r.Err == nil && p.Now.Sub(r.At) < p.RAM.Stale
	if fresh {
		s.Resident = s.Bytes - (r.Size - r.Bytes) // what is there twice is read once
	}
	said := p.NodeLabels[WarmPrefix+s.Name] == TierRAM && p.Revisions[s.Name] == shortRevision(s.Revision)
	switch {
	case fresh && inRAM(said, r.share()):
		s.Tier, s.RAMState = TierRAM, RAMResident
	case known && errors.Is(r.Err, store.ErrUnmeasurable):
		s.RAMState, s.NotInRAM = RAMUnmeasurable, errText(r.Err)
	case known && r.Err != nil:
		s.RAMState, s.NotInRAM = RAMUnmeasured, "its pages in memory cannot be counted: "+errText(r.Err)
	case !held:
		s.RAMState, s.NotInRAM = not.state, not.why
	case !known:
		s.RAMState, s.NotInRAM = RAMUnmeasured, "what of it is in memory has not been measured yet"
	case !fresh:
		s.RAMState, s.NotInRAM = RAMUnmeasured, "what of it is in memory has not been measured for too long: the disk does not answer"
	case r.Leaves:
		s.RAMState, s.NotInRAM = RAMLeaves, "its pages do not stay in memory: something on the node takes it back"
	default:
		s.RAMState, s.NotInRAM = RAMReading, "it is being read into memory"
	}
}

// cacheFor is how many bytes of a pull may stay in the page cache: what is larger
// would only push out what is there. 0 leaves that to the fetcher.
func (p *planner) cacheFor(m Model) int64 {
	if p.RAM.Config.Budget == (Share{}) || !p.RAM.Measured || p.RAM.MemoryErr != nil {
		return 0
	}
	left := min(p.RAM.spare(), p.RAM.ownRoom(), p.RAM.Memory.Most()/2) - p.out.Memory.Taken
	if m.RAM {
		left = p.out.Memory.Budget.Bytes
		for _, t := range p.out.Memory.Targets {
			if i := p.find(t.Manifest.Name); t.Read && t.Manifest.Name != m.Name && p.out.Models[i].Model.Priority >= m.Priority {
				left -= t.Manifest.Bytes
			}
		}
	}
	if left <= 0 {
		return -1
	}
	return left
}
