package agent

import (
	"maps"
	"strings"
	"time"
)

// maxAPIWait caps the backoff of writes to the Node: a label that lies while the
// API server is away must go soon after it is back.
const maxAPIWait = 20 * time.Second

// said is everything that the agent writes to its Node, as one set.
type said struct {
	labels     map[string]string
	annotation string
	// state and progress are what decides when it is written again.
	state    string
	progress string
}

// compose renders labels and status; now stands in the annotation.
func compose(labels map[string]string, status NodeStatus, now time.Time) (said, error) {
	s := said{labels: labels}
	var err error
	if s.state, err = status.signature(false); err != nil {
		return said{}, err
	}
	if s.progress, err = status.signature(true); err != nil {
		return said{}, err
	}
	status.Time = now.UTC().Truncate(time.Second)
	s.annotation, err = status.encode()
	return s, err
}

// promises is the set of models that the labels call warm.
func (n nodeView) promises() map[string]bool {
	out := map[string]bool{}
	for k := range n.Labels {
		if name, ok := strings.CutPrefix(k, WarmPrefix); ok {
			out[name] = true
		}
	}
	return out
}

// sayer decides when to write. There are three reasons: something changed,
// progress, and somebody else changed what we wrote. It is used by the loop
// alone; the write itself runs elsewhere, one at a time.
type sayer struct {
	confirmed *said     // the last write that the API server confirmed
	last      time.Time // when the last write began
	inFlight  bool
	failures  int
	notBefore time.Time // after a failure
	again     bool      // the Node does not show what was said
}

// due says whether to write now, and if not, when time alone makes it due.
func (s *sayer) due(now time.Time, want said, iv Intervals) (bool, time.Time) {
	if s.inFlight {
		return false, time.Time{}
	}
	var at time.Time
	switch {
	case s.confirmed == nil, s.again, s.confirmed.state != want.state, !maps.Equal(s.confirmed.labels, want.labels):
		at = s.last.Add(iv.LabelWrites)
	case s.confirmed.progress != want.progress:
		at = s.last.Add(iv.Progress)
	default:
		return false, time.Time{}
	}
	if s.last.IsZero() {
		at = now
	}
	if at.Before(s.notBefore) {
		at = s.notBefore
	}
	return !now.Before(at), at
}

func (s *sayer) begin(now time.Time) { s.inFlight, s.last = true, now }

// end takes the outcome of a write.
func (s *sayer) end(now time.Time, wrote said, err error, iv Intervals, jitter float64) {
	s.inFlight = false
	if err != nil {
		s.failures++
		s.notBefore = now.Add(min(backoff(iv, s.failures, jitter), maxAPIWait))
		return
	}
	s.confirmed, s.failures, s.notBefore, s.again = &wrote, 0, time.Time{}, false
}
