package sweep

import "time"

// evidence is everything that decides whether a node is without an agent.
type evidence struct {
	// Pods are the agents' pods on the node.
	Pods []pod
	// Wrote is when an agent last changed the Node.
	Wrote time.Time
	// Bare is when this process first saw the node without a ready pod, and has
	// since; zero: just now.
	Bare time.Time
	// Attended is when this process last saw a ready pod there; zero: never.
	Attended time.Time
	// Floor is when the API server came back; zero: it was never away. Nobody
	// could report anything before it, so nothing from before it counts.
	Floor time.Time
}

// bareSince tells since when the node has had no ready agent; false: it has
// one.
//
// A pod that is there tells by its Ready condition, also what happened before
// this process began. Where there is none, the clock begins when this process
// first looked. A pod that is replaced again and again without ever being ready
// does not put the clock back; a sign of life does: a ready pod that this
// process saw, or a write of an agent to the Node.
func (e evidence) bareSince(now time.Time) (time.Time, bool) {
	since := now
	if !e.Bare.IsZero() {
		since = e.Bare
	}
	var told time.Time
	known := len(e.Pods) > 0
	for _, p := range e.Pods {
		if p.Ready {
			return time.Time{}, false
		}
		known = known && !p.Since.IsZero()
		told = latest(told, p.Since)
	}
	if known && told.Before(since) {
		since = told
	}
	return latest(since, e.Attended, e.Wrote, e.Floor), true
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}

const (
	// maxDoublings caps how much longer a node is left alone on which labels
	// came back though no ready pod of ours was there.
	maxDoublings = 8
	// few is the number of nodes that may be without an agent at once without
	// that being a sign of something larger.
	few = 3
)

// patience is how long a node may be without an agent. Each time that its labels
// came back after a withdrawal, and still no ready pod was seen, it is twice as
// long: somebody else writes them, and a label that flaps helps nobody.
func patience(timeout time.Duration, withdrawals int) time.Duration {
	return timeout << min(withdrawals, maxDoublings)
}

// suspicious says that so much is without an agent that it is more likely a
// fault of the cluster, or a wrong selector, than so many dead nodes: more than
// half of those with labels, or all that there ever was.
func suspicious(bare, labelled int, everReady bool) bool {
	return bare > 0 && (!everReady || (bare > few && 2*bare > labelled))
}

// perMinute is how many nodes a minute may lose their labels.
func perMinute(labelled int, slow bool) int {
	if slow {
		return max(1, labelled/50)
	}
	return max(6, labelled/10)
}
