package sweep

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Results of a removal, as the metric counts them.
const (
	resultDone     = "done"
	resultRefuted  = "refuted"  // a live look tells otherwise than the watches
	resultConflict = "conflict" // somebody wrote to the Node in between
	resultFailed   = "failed"
)

// Backoff of a node whose removal does not go through.
const (
	minRetry = time.Second
	maxRetry = 5 * time.Minute
)

// act takes labels back, as many as the pace allows.
func (s *Sweeper) act(ctx context.Context, due []candidate, labelled, bare int) {
	if len(due) == 0 {
		s.warned = time.Time{}
		return
	}
	now := time.Now()
	step := time.Minute / time.Duration(perMinute(labelled, s.slow))
	if s.slow && s.warned.IsZero() {
		s.next = now.Add(step) // somebody may want to read the warning first
	}
	if s.slow && now.Sub(s.warned) >= warnEvery {
		s.warned = now
		s.warn(due[0], labelled, bare)
	}
	// What was not used does not add up to a burst.
	s.next = latest(s.next, now.Add(-s.interval))
	for _, c := range due {
		if s.next.After(now) || ctx.Err() != nil {
			return
		}
		if now.Before(s.nodes[c.Name].notBefore) {
			continue
		}
		result := s.withdraw(ctx, c)
		s.metrics.counted(result)
		switch result {
		case resultDone:
			s.next = s.next.Add(step)
		case resultFailed:
			return // the next node's request would most likely end as this one
		}
	}
}

// withdraw looks at a node as it is now and takes its labels back if nothing
// speaks against it.
func (s *Sweeper) withdraw(ctx context.Context, c candidate) string {
	m := s.nodes[c.Name]
	var live node
	var pods []pod
	err := s.call(ctx, func(ctx context.Context) (err error) {
		live, pods, err = s.cluster.look(ctx, c.Name)
		return err
	})
	if err != nil {
		return s.failed(c, m, err)
	}
	now := time.Now()
	e := m.evidence
	e.Pods, e.Wrote, e.Floor = pods, live.Wrote, s.floor
	since, bare := e.bareSince(now)
	// Where the watches do not show what is there, they lag, and what they made
	// of the time before may be wrong as well.
	if live.UID != c.UID || !live.says() || !s.mine(live) || !bare || !samePods(pods, c.pods) || !s.overdue(now, m, since) {
		m.notBefore = now.Add(s.interval)
		return resultRefuted
	}
	if err := s.call(ctx, func(ctx context.Context) error { return s.cluster.withdraw(ctx, live) }); err != nil {
		return s.failed(c, m, err)
	}
	m.failures, m.notBefore, m.withdrawn = 0, time.Time{}, now
	m.withdrawals++
	absent := now.Sub(since).Truncate(time.Second)
	s.logger.Info("withdraw labels", "node", c.Name, "keys", live.keys(), "without_agent", absent, "withdrawals", m.withdrawals)
	told := event{
		Reason: EventLabelsWithdrawn, Action: "WithdrawLabels", Node: c.Name, NodeUID: live.UID, Time: now,
		Note: fmt.Sprintf("no ready agent pod for %s: removed %d labels and %d annotations; an agent that returns writes them again",
			absent, len(live.Labels), len(live.Annotations)),
	}
	if m.withdrawals > 1 {
		told.Reason, told.Warning = EventLabelsReturned, true
		told.Note = fmt.Sprintf("labels came back though no ready agent pod is here, and were removed again (%d times by now): an agent that"+
			" the sweeper does not know (--namespace, --selector), or one whose pod is not ready; if they come back, they stay for %s",
			m.withdrawals, patience(s.o.AgentTimeout, m.withdrawals))
	}
	s.tell(told)
	return resultDone
}

// failed sets when a node is tried again.
func (s *Sweeper) failed(c candidate, m *memory, err error) string {
	now := time.Now()
	if apierrors.IsNotFound(err) {
		m.notBefore = now.Add(s.interval) // the watch will tell
		return resultRefuted
	}
	m.failures++
	wait := min(minRetry<<min(m.failures-1, 20), maxRetry)
	wait = wait/2 + rand.N(wait/2+1)
	m.notBefore = now.Add(wait)
	if apierrors.IsConflict(err) {
		s.logger.Info("look again: the node changed", "node", c.Name, "retry_in", wait)
		return resultConflict
	}
	s.logger.Warn("withdraw labels", "node", c.Name, "retry_in", wait, "error", err)
	return resultFailed
}

// warn says that something larger is wrong.
func (s *Sweeper) warn(c candidate, labelled, bare int) {
	pace := perMinute(labelled, true)
	s.logger.Warn("take labels back slowly: too many nodes have no ready agent", "labelled", labelled, "without_agent", bare,
		"ever_ready", s.everReady, "nodes_per_minute", pace)
	s.tell(event{
		Reason: EventAgentsMissing, Action: "SlowDown", Node: c.Name, NodeUID: c.UID, Warning: true, Time: time.Now(),
		Note: fmt.Sprintf("%d of %d labelled nodes have no ready agent pod: %d a minute lose their labels;"+
			" check the agents' DaemonSet, and the sweeper's --namespace and --selector (%s, %s)",
			bare, labelled, pace, s.o.Namespace, s.o.Selector),
	})
}
