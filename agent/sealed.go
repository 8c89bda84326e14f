package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// populate is what to do about a volume that lacks something.
const populate = "populate a volume with it and mount that one, or take it from the list"

// sealed decides about one entry of the list where no agent writes: to say what
// this node's own mount shows, and what has been read of it.
func (p *planner) sealed(m Model) {
	s := modelState{Name: m.Name, Model: m, Listed: true, State: StateAbsent, Pods: p.here[m.Name]}
	s.Wanted = len(m.NodeSelector) == 0 || (p.NodeKnown && m.selects(p.NodeLabels)) || s.Pods > 0
	have, published := p.Store.Value.Models[m.Name]
	published = published && p.Store.Known
	mine := published && sameSource(m, have.Manifest)
	if mine {
		s.Revision, s.Bytes, s.Size, s.SizeErr = have.Manifest.Revision, have.Manifest.Bytes, have.Size, have.SizeErr
	}
	read := p.Shared.Inspected[m.Name]
	if read.Revision != s.Revision {
		read = inspected{}
	}
	switch {
	case !p.Store.Known:
		p.withoutStore(&s)
	case !s.Wanted:
		s.State, s.Reason = StateSkipped, notSelected
	case !published:
		s.State, s.Reason, s.Hint = StateFailed, "it is not on the volume, into which no agent writes", populate
	case !mine:
		s.State, s.Reason, s.Hint = StateFailed, "the volume has a model of this name from "+have.Manifest.Source, populate
	case p.Store.Value.Leaving[m.Name]:
		s.State, s.Reason = StateEvicting, "whoever writes into the volume takes it away"
		s.Hint = "wait until it is gone; on a copy of a volume from which a model was just being removed, it stays so: make another copy"
	case have.Err == nil:
		s.State, s.Warm = StateWarm, true
		if pin := m.Source.Revision; m.Source.Pinned() && pin != s.Revision {
			s.Reason, s.Hint = fmt.Sprintf("the volume has revision %s, and the list asks for %s", shortRevision(s.Revision), shortRevision(pin)), "populate a volume with that revision and mount that one, or list the one that there is"
		}
	case read.Wrong != "":
		s.State, s.Reason = StateFailed, fmt.Sprintf("this node has read %s from the volume, and its content is wrong", read.Wrong)
		s.Hint = "populate another volume and mount that one; if other nodes find it right, look at this node's path to the volume"
	case read.Contested != "":
		s.State, s.Reason = StateVerifying, fmt.Sprintf("another node found the content of %s wrong, and this one is about to read it", read.Contested)
	case errors.Is(have.Err, store.ErrUnverified):
		s.State, s.Reason = StateVerifying, "it was not verified as this volume shows it, so the agents read all of it"
		s.Progress = &pulling{Phase: fetcher.PhaseVerifying, Done: read.Bytes, Total: s.Bytes}
	case errors.Is(have.Err, store.ErrCorrupt):
		s.State, s.Reason = StateFailed, "its files are not as they were published: "+errText(have.Err)
		s.Hint = "populate another volume and mount that one"
	default:
		s.State, s.Reason = StateFailed, "its files cannot be checked: "+errText(have.Err)
		s.Hint = "look at the node's mount"
	}
	p.out.Models = append(p.out.Models, s)
}

// inspectKnown says whether what agents have found of a read-only volume, before
// this process began, is taken over: a restart must not take back what is true. Where
// the account may not read it, there is nothing to wait for; while the API server is
// away, nothing could be said anyway.
func (a *Agent) inspectKnown(now time.Time, f facts) bool {
	if a.inspect == nil || !f.Store.Known || a.inspect.refused.Load() && a.patient(now) {
		return true
	}
	ready := a.inspect.ready.Load()
	return ready > 0 && int64(f.Store.Gen) >= ready
}
