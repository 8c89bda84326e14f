package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// coldTaint is a startup taint of the Node, and its place in the list.
type coldTaint struct {
	Index int
	Taint corev1.Taint
}

// coldTaints finds Stoker's startup taint, which may be there with several
// effects.
func coldTaints(taints []corev1.Taint) []coldTaint {
	var out []coldTaint
	for i, t := range taints {
		if t.Key == ColdTaint {
			out = append(out, coldTaint{Index: i, Taint: t})
		}
	}
	return out
}

// lift takes exactly these taints off the Node. The list of taints is one value
// for server-side apply, so it is a JSON Patch, and its test fails if somebody
// has changed the list since it was read.
func (a nodeAPI) lift(ctx context.Context, taints []coldTaint) (nodeView, error) {
	type operation struct {
		Op    string        `json:"op"`
		Path  string        `json:"path"`
		Value *corev1.Taint `json:"value,omitempty"`
	}
	var patch []operation
	for _, t := range slices.Backward(taints) { // the last one first: the others keep their place
		path := fmt.Sprintf("/spec/taints/%d", t.Index)
		patch = append(patch, operation{Op: "test", Path: path, Value: &t.Taint}, operation{Op: "remove", Path: path})
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return nodeView{}, err
	}
	n, err := a.nodes.Patch(ctx, a.name, types.JSONPatchType, data, metav1.PatchOptions{FieldManager: FieldManager})
	if err != nil {
		return nodeView{}, a.explain("lift the taint "+ColdTaint+" of", err)
	}
	return viewOf(n), nil
}

// startup decides about the taint that keeps pods off a new node.
type startup struct {
	// Lift says to take it off now; Late that it is for the timeout.
	Lift, Late bool
	// Waiting are the models that are waited for.
	Waiting []string
	// At is when the timeout comes.
	At time.Time
}

// decideStartup is a pure function: the taint goes when the API server has
// confirmed the label of every model of the stated priority that this node
// should hold, or when it has stood for the timeout.
func decideStartup(f facts, d decision, since time.Time, cfg StartupConfig) startup {
	s := startup{At: since.Add(cfg.Timeout)}
	for _, m := range d.Models {
		if !m.Listed || !m.Wanted || m.Model.Priority < cfg.Priority {
			continue
		}
		if !m.Warm || f.Revisions[m.Name] != shortRevision(m.Revision) {
			s.Waiting = append(s.Waiting, m.Name)
		}
	}
	known := f.Store.Known && f.NodeKnown && f.PodsKnown && f.PromiseKnown
	switch {
	case known && len(s.Waiting) == 0:
		s.Lift = true
	case !f.Now.Before(s.At):
		s.Lift, s.Late = true, true
	}
	return s
}

// lifted is how an attempt to lift the taint ended.
type lifted struct {
	view nodeView
	err  error
}

// liftTaint takes the startup taint off when it is time; it returns when time
// alone makes it so.
func (a *Agent) liftTaint(ctx context.Context, now time.Time, f facts, d decision) time.Time {
	l := &a.loop
	if out, ok := a.lifted.take(); ok {
		l.lifting = false
		if out.err != nil {
			l.liftNotBefore = now.Add(l.cfg.Intervals.RetryMin)
			a.logger.Warn("lift startup taint", "error", errText(out.err))
			a.node.start(ctx, l.cfg.Intervals.Timeout, true)
		} else if !l.said.inFlight {
			a.seeNode(out.view)
		}
	}
	if !l.nodeOK {
		return time.Time{}
	}
	if len(l.nodeSeen.Cold) == 0 {
		l.coldSince = time.Time{}
		return time.Time{}
	}
	if l.coldSince.IsZero() && l.remembered {
		l.coldSince = now
	}
	since := l.coldSince
	if since.IsZero() {
		since = l.started // the store, and with it what an earlier run knew, has not been read yet
	}
	s := decideStartup(f, d, since, l.cfg.Startup)
	if !s.Lift || l.lifting || now.Before(l.liftNotBefore) {
		return later(s.At, now)
	}
	l.lifting = true
	e := event{Reason: EventNodeWarm, Action: "LiftTaint", Note: fmt.Sprintf("lifted the taint %s after %s: what the list wants here is warm", ColdTaint, now.Sub(since).Round(time.Second))}
	if s.Late {
		e.Reason, e.Warning = EventNodeStillCold, true
		e.Note = fmt.Sprintf("lifted the taint %s because it has stood for %s; not warm: %s", ColdTaint, l.cfg.Startup.Timeout, waitedFor(s.Waiting))
	}
	cold, timeout := l.nodeSeen.Cold, l.cfg.Intervals.Timeout
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		callCtx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		view, err := a.cluster.lift(callCtx, cold)
		if err != nil && ctx.Err() != nil {
			return
		}
		if err == nil {
			a.logger.Info("lifted startup taint", "late", s.Late)
			a.events.record(e)
		}
		a.lifted.put(lifted{view: view, err: err})
		poke(a.wakeup)()
	}()
	return time.Time{}
}

// later is t if it is still to come, else the zero time.
func later(t, now time.Time) time.Time {
	if t.After(now) {
		return t
	}
	return time.Time{}
}

func waitedFor(names []string) string {
	if len(names) == 0 {
		return "what the node holds is not known"
	}
	return strings.Join(names, ", ")
}
