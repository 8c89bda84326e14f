package agent

import (
	"crypto/sha256"
	"maps"
	"strings"
	"time"
)

// maxAPIWait caps the backoff of writes to the Node: a label that lies while the
// API server is away must go soon after it is back.
const maxAPIWait = 20 * time.Second

// said is everything that the agent writes of its node, as one set.
type said struct {
	labels     map[string]string
	annotation string
	// state and progress are what decides when it is written again.
	state    string
	progress string
	// whole is the whole status for the Lease more, where the annotation lacks some
	// of it; wholeState and wholeProgress decide when that is written again.
	whole                     string
	more                      StatusLease
	wholeState, wholeProgress [sha256.Size]byte
	// pulling: progress is to be expected.
	pulling bool
}

// composer is what turns a status into bytes.
type composer struct {
	now       time.Time
	intervals Intervals
	agents    int // in the fleet; at least 1
	// lease is where the whole status may be written; the zero value: nowhere.
	lease StatusLease
	// last is what was written last; nil: nothing.
	last *said
}

// compose renders labels and status.
func (c composer) compose(labels map[string]string, status NodeStatus) (said, error) {
	s := said{labels: labels}
	for _, m := range status.Models {
		s.pulling = s.pulling || m.TotalBytes > 0
	}
	status.Time = c.now.UTC().Truncate(time.Second)
	text, whole, err := status.encode(maxStatus)
	if err != nil {
		return said{}, err
	}
	if !whole && c.lease != (StatusLease{}) {
		status.More, s.more = c.lease.String(), c.lease
		if err := s.fillWhole(status, c.last); err != nil {
			return said{}, err
		}
	}
	s.annotation = text
	if every := progressEvery(c.intervals, s, c.agents); every > c.intervals.Progress {
		status.ProgressSeconds = int(every / time.Second)
	}
	for _, r := range []struct {
		to *string
		of NodeStatus
	}{{&s.annotation, status}, {&s.state, status.signature(false)}, {&s.progress, status.signature(true)}} {
		if *r.to, _, err = r.of.encode(maxStatus); err != nil {
			return said{}, err
		}
	}
	return s, nil
}

// fillWhole renders the status for the Lease; what last holds already is not packed
// again.
func (s *said) fillWhole(status NodeStatus, last *said) error {
	for _, r := range []struct {
		to *[sha256.Size]byte
		of NodeStatus
	}{{&s.wholeState, status.signature(false)}, {&s.wholeProgress, status.signature(true)}} {
		text, _, err := r.of.encode(maxUnpacked)
		if err != nil {
			return err
		}
		*r.to = sha256.Sum256([]byte(text))
	}
	if last != nil && last.wholeProgress == s.wholeProgress {
		s.whole = last.whole
		return nil
	}
	var err error
	s.whole, err = status.packWhole()
	return err
}

// progressEvery is how often progress is written: as the settings say, and more
// rarely where a write is large or has many beside it. Where there is a Lease for
// the whole status, progress is written there, and the Node left alone.
func progressEvery(iv Intervals, s said, agents int) time.Duration {
	size := s.size()
	if s.whole != "" {
		size = len(s.whole)
	}
	return max(iv.Progress, pace(size, agents))
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
	agents    int       // in the fleet; 0: not counted
}

// due says whether to write now, and if not, when time alone makes it due.
func (s *sayer) due(now time.Time, want said, iv Intervals) (bool, time.Time) {
	if s.inFlight {
		return false, time.Time{}
	}
	agents := max(1, s.agents)
	var wait time.Duration
	switch {
	case s.confirmed == nil, s.again, withdraws(s.confirmed.labels, want.labels):
		wait = iv.LabelWrites
	case !maps.Equal(s.confirmed.labels, want.labels):
		wait = max(iv.LabelWrites, pace(want.size(), 1)/stateShare)
	case s.confirmed.state != want.state:
		wait = max(iv.LabelWrites, pace(want.size(), agents)/stateShare)
	case s.confirmed.wholeState != want.wholeState:
		wait = max(iv.LabelWrites, pace(len(want.whole), agents)/stateShare)
	case s.confirmed.progress != want.progress, s.confirmed.wholeProgress != want.wholeProgress:
		wait = progressEvery(iv, want, agents)
	default:
		return false, time.Time{}
	}
	at := s.last.Add(wait)
	if s.last.IsZero() {
		at = now
	}
	if at.Before(s.notBefore) {
		at = s.notBefore
	}
	return !now.Before(at), at
}

// withdraws reports whether a label is to go, or to promise something else: those
// wait for nothing but the least time between writes.
func withdraws(have, want map[string]string) bool {
	for k, v := range have {
		if now, ok := want[k]; !ok || now != v {
			return true
		}
	}
	return false
}

// leaseOnly reports whether the Node says already what is wanted, but for progress,
// and only the Lease lacks something.
func (s *sayer) leaseOnly(want said) bool {
	return want.whole != "" && s.confirmed != nil && !s.again && s.confirmed.state == want.state && maps.Equal(s.confirmed.labels, want.labels)
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
