package agent

import "time"

// A rise that did not last for settled spans makes the next one wait twice as
// long, up to patience spans: memory that jitters across a border now and then
// would else be told up and down all day.
const (
	settled  = 5
	patience = 8
)

// lowest is the least that a number has been over a span of time that ends
// now. It falls at once, and rises when a higher value has held for the span.
type lowest struct {
	// levels have rising values: since from, no reading was below value. The
	// first one is what is told.
	levels []level
	hold   time.Duration // the span, or more after rises that did not last
	rose   time.Time     // the last rise; zero after a fall
}

type level struct {
	value int
	from  time.Time
}

// push takes a reading and returns the least value. The first reading counts
// as if it had held forever: what is true at start is said at start.
func (l *lowest) push(now time.Time, value int, span time.Duration) int {
	from, before := now, value
	if len(l.levels) > 0 {
		before = l.levels[0].value
	}
	for n := len(l.levels); n > 0 && l.levels[n-1].value >= value; n-- {
		from = l.levels[n-1].from // at least as much since then
		l.levels = l.levels[:n-1]
	}
	l.levels = append(l.levels, level{value: value, from: from})
	hold := max(l.hold, span)
	for len(l.levels) > 1 && now.Sub(l.levels[1].from) >= hold {
		l.levels = l.levels[1:]
	}
	told := l.levels[0].value
	switch {
	case told > before:
		l.rose = now
	case told < before && !l.rose.IsZero():
		l.hold = span
		if now.Sub(l.rose) < settled*span {
			l.hold = min(2*hold, patience*span)
		}
		l.rose = time.Time{}
	}
	return told
}

// steady turns readings of the GPUs into what the Node says of them. A number
// that falls is said as soon as the interval between writes allows, one that
// rises when it has held for a while: what is said may be too little for a
// while, but not too much for longer than that interval. It has no clock.
type steady struct {
	count, idle, freeGiB, unallocated lowest
	fits, tight                       map[string]*lowest

	// now is what may be said now; fed is false before the first reading.
	now gpuWord
	fed bool
	// told is what the API server has confirmed last; nil: nothing yet. alone
	// is when a write was last confirmed that only the GPUs had caused.
	told  *gpuWord
	alone time.Time
}

// feed takes what holds by the latest reading.
func (s *steady) feed(now time.Time, w gpuWord, rise time.Duration) {
	next := gpuWord{
		Count: s.count.push(now, w.Count, rise), Idle: s.idle.push(now, w.Idle, rise),
		FreeGiB: s.freeGiB.push(now, w.FreeGiB, rise), Unallocated: s.unallocated.push(now, w.Unallocated, rise),
		Leaks: w.Leaks, Measured: w.Measured,
	}
	s.fits, next.Fits = pushEach(s.fits, now, w.Fits, rise)
	s.tight, next.Tight = pushEach(s.tight, now, w.Tight, rise)
	switch {
	case next.known():
		next.Name, next.TotalBytes, next.UsableBytes = w.Name, w.TotalBytes, w.UsableBytes
	case !w.known() && w.trouble != s.now.trouble:
		next.Reason, next.trouble = w.Reason, w.trouble
	default:
		next.Reason, next.trouble = s.now.Reason, s.now.trouble
	}
	if !next.known() {
		next.Leaks = nil
	}
	s.now, s.fed = next, true
}

// pushEach takes the readings of each model; of those without one nothing is kept.
func pushEach(before map[string]*lowest, now time.Time, readings map[string]int, rise time.Duration) (map[string]*lowest, map[string]int) {
	after, values := make(map[string]*lowest, len(readings)), make(map[string]int, len(readings))
	for name, n := range readings {
		l := before[name]
		if l == nil {
			l = &lowest{}
		}
		after[name], values[name] = l, l.push(now, n, rise)
	}
	return after, values
}

// confirmed takes what the API server has confirmed.
func (s *steady) confirmed(now time.Time, u utterance) {
	s.told = &u.word
	if u.alone {
		s.alone = now
	}
}

// utterance is a decision about the next write of the Node.
type utterance struct {
	said said
	word gpuWord
	// due says to write now; else at is when time alone makes it due.
	due bool
	at  time.Time
	// alone: there would be nothing to write but for the GPUs.
	alone bool
}

// utter decides whether the Node is written now. What the GPUs alone cause is
// written at most every iv.GPU; a write that something else causes carries
// what holds of the GPUs then, which costs nothing.
func (s *steady) utter(now time.Time, node *sayer, iv Intervals, render func(gpuWord) (said, error)) (utterance, error) {
	if s.told == nil {
		u := utterance{word: s.now}
		var err error
		if u.said, err = render(s.now); err == nil {
			u.due, u.at = node.due(now, u.said, iv)
		}
		return u, err
	}
	u := utterance{word: *s.told}
	var err error
	if u.said, err = render(*s.told); err != nil {
		return utterance{}, err
	}
	u.due, u.at = node.due(now, u.said, iv)
	if s.now.equal(*s.told) {
		return u, nil
	}
	if !u.due && !s.alone.IsZero() && now.Sub(s.alone) < iv.GPU {
		if at := s.alone.Add(iv.GPU); u.at.IsZero() || at.Before(u.at) {
			u.at = at
		}
		return u, nil
	}
	fresh := utterance{word: s.now, alone: !u.due}
	if fresh.said, err = render(s.now); err != nil {
		return utterance{}, err
	}
	if fresh.due, fresh.at = u.due, u.at; !u.due {
		fresh.due, fresh.at = node.due(now, fresh.said, iv)
		if !u.at.IsZero() && (fresh.at.IsZero() || u.at.Before(fresh.at)) {
			fresh.at = u.at
		}
	}
	return fresh, nil
}
