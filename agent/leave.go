package agent

import (
	"slices"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// labelWithoutManifest says that the Node promises a model whose manifest is gone,
// taken by somebody else. Nothing refers to its content then, so removing anything,
// which collects what nothing refers to, would take it before the label has gone.
func (p *planner) labelWithoutManifest() bool {
	for _, m := range p.out.Models {
		if _, published := p.Store.Value.Models[m.Name]; m.Listed && p.Promised[m.Name] && !published {
			return true
		}
	}
	return false
}

const notSelected = "its nodeSelector does not match this node's labels"

// unwanted decides about an entry that this node should not hold.
func (p *planner) unwanted(s *modelState, published, unsure bool) {
	s.State, s.Reason = StateSkipped, notSelected
	if unsure {
		s.Reason = "this node's labels are not known yet"
		return
	}
	if published {
		p.evict(s)
	}
}

// evict lets a published model go: unlabelled at once, removed after the grace
// period and only when the label's absence was confirmed.
func (p *planner) evict(s *modelState) {
	r := p.Memory[s.Name]
	if !r.Managed {
		s.State = StateSkipped
		return
	}
	s.State = StateEvicting
	at := r.Unwanted.Add(p.Intervals.Grace)
	switch {
	case !p.PodsKnown:
		s.Reason += "; kept until the pods of this node are known"
	case s.Used || p.holdAll:
		s.Reason += "; kept while pods " + p.Shared.where() + " use it"
	case r.Unwanted.IsZero() || p.Now.Before(at):
		if !r.Unwanted.IsZero() {
			s.Next = at
			p.wakeAt(at)
		}
	case p.promised(s.Name):
		s.Reason += "; its label is being withdrawn first" + p.Shared.carriers(s.Name)
	case r.Failure != nil && p.Now.Before(r.Next):
		s.Reason, s.Hint, s.Next = r.Failure.Reason, r.Failure.Hint, r.Next
		p.wakeAt(r.Next)
	default:
		p.out.Remove = append(p.out.Remove, s.Name)
	}
}

// prune lets superseded revisions go after the grace period, when nobody may
// read them any more.
func (p *planner) prune(s *modelState, have store.Manifest) {
	if !p.prunable(*s, have) {
		return
	}
	at := have.PublishedAt.Add(p.Intervals.Grace)
	if have.PublishedAt.After(p.Now) {
		at = p.Now // the clock was ahead when it was published
	}
	if next := p.Memory[s.Name].PruneNext; next.After(at) {
		at = next
	}
	for _, old := range p.Store.Value.Models[s.Name].Old {
		if p.Now.Before(at) {
			p.wakeAt(at)
			return
		}
		p.out.Prune = append(p.out.Prune, superseded{Name: s.Name, Revision: old.Revision})
	}
}

// clockSkew is how far the clocks of the API server, which dates pods, and of
// this node, which dates the switch of a revision, may be apart.
const clockSkew = time.Minute

// prunable says whether nobody may read superseded revisions any more: the Node
// says the current one, and no pod is left that is older than the switch and so
// may have pinned another one.
func (p *planner) prunable(s modelState, have store.Manifest) bool {
	said := s.Warm && p.Revisions[s.Name] == shortRevision(have.Revision)
	if p.Shared.Writes && len(p.Store.Value.Models[s.Name].Old) > 0 {
		// No Node may say another one; this one need not say any.
		said = (said || !s.Wanted) && p.Shared.Gone[departure{Model: s.Name, Except: shortRevision(have.Revision)}]
	}
	return p.PodsKnown && !p.holdAll && said &&
		!slices.ContainsFunc(slices.Concat(p.Pods, p.Shared.Elsewhere), func(pod pod) bool {
			return !pod.over() && slices.Contains(pod.models(), s.Name) && !pod.Created.After(have.PublishedAt.Add(clockSkew))
		})
}

// unlisted decides about what is in the store or named by pods, but in no list.
func (p *planner) unlisted() {
	if !p.ListKnown {
		return // without a list nothing is known to be unwanted
	}
	listed := make(map[string]bool, len(p.List))
	for _, m := range p.List {
		listed[m.Name] = true
	}
	for name := range p.Running {
		if !listed[name] {
			p.out.Cancel = append(p.out.Cancel, name)
		}
	}
	slices.Sort(p.out.Cancel)
	seen := map[string]bool{}
	for name, have := range p.Store.Value.Models {
		r := p.Memory[name]
		if listed[name] || !p.Store.Known || !r.Managed || p.Store.Gen < r.Fresh || p.Shared.follows() {
			continue
		}
		seen[name] = true
		s := modelState{
			Name: name, Pods: p.here[name], Used: p.demand[name] > 0, Revision: have.Manifest.Revision, Bytes: have.Manifest.Bytes,
			Reason: "it is no longer in the model list",
		}
		if p.Removing[name] {
			s.State = StateEvicting
			if p.Shared.Writes {
				p.out.Leave[departure{Model: name}] = true
			}
		} else {
			p.evict(&s)
		}
		p.out.Models = append(p.out.Models, s)
	}
	for name := range p.demand {
		_, stored := p.Store.Value.Models[name]
		if listed[name] || seen[name] || stored || fetcher.CheckName(name) != nil {
			continue
		}
		p.out.Models = append(p.out.Models, modelState{
			Name: name, State: StateFailed, Pods: p.here[name], Used: true, Code: store.CodeRefused,
			Reason: "a pod " + p.Shared.where() + " names it, and the model list does not have it",
			Hint:   "add it to the model list, or correct the pod's label " + ModelLabel + " or annotation " + AdaptersAnnotation,
		})
	}
}
