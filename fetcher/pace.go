package fetcher

import "time"

// How a pull finds out how many connections help. Rates are bytes per second.
const (
	// beginWith is how many connections a pull begins with.
	beginWith = 4
	// paceEvery is how often the rate is looked at.
	paceEvery = 500 * time.Millisecond
	// worthwhile is by how much the rate must rise for more connections to
	// stay. Twice as many bring nothing where the link, the processor or the
	// disk is full, and up to twice the rate where each has a window, a share or
	// losses of its own.
	worthwhile = 1.1
	// A connection that brings less than slow is held up by the way, and four
	// times as many are tried; one that brings more than fast is in no hurry to
	// be helped: the first try waits until fastLooks.
	slow, fast = 16e6, 64e6
	fastLooks  = 4
	// How many looks it takes until the next try after one in vain: doubling.
	restMin, restMax = 32, 512
	// patience is how many looks a source that asked for patience is spared.
	patience = 120
)

// pace decides how many connections a pull uses: it tries more, keeps them if
// they bring more, and goes back if not. It is a function of what it is told;
// the clock is the caller's.
type pace struct {
	limit  int
	target int

	before  int     // what to go back to, while more are being tried
	base    float64 // the rate with so many
	settle  bool    // the last change is too young to be judged
	looks   int     // how many there were
	resting int     // looks until the next try
	rest    int     // how long the next rest is
	asked   bool    // the source has asked for patience
}

func newPace(limit int) *pace {
	return &pace{limit: limit, target: min(beginWith, limit), settle: true, rest: restMin}
}

// look takes the rate since the last look, and whether there was work for all
// connections all the time.
func (p *pace) look(rate float64, full bool) {
	p.looks++
	switch {
	case !full || rate <= 0:
		return // it says nothing about how many would help
	case p.resting > 0:
		p.resting--
		return
	case p.settle:
		p.settle = false
		return
	case p.before == 0:
		if p.looks >= fastLooks || rate/float64(p.target) < fast {
			p.try(rate)
		}
	case rate >= p.base*worthwhile:
		p.before, p.rest = 0, restMin
		p.try(rate)
	default:
		p.target, p.before = p.before, 0
		p.resting, p.rest = p.rest, min(2*p.rest, restMax)
		p.settle = true
	}
}

func (p *pace) try(rate float64) {
	if p.target >= p.limit {
		return
	}
	p.before, p.base = p.target, rate
	more := 2
	if rate/float64(p.target) < slow {
		more = 4
	}
	p.target = min(more*p.target, p.limit)
	p.settle = true
}

// far hears that the source is: all connections are used at once, unless it asked
// for patience.
func (p *pace) far() {
	if p.asked {
		return
	}
	p.target, p.before = p.limit, 0
	p.settle = true
}

// throttled hears that the source asked for patience.
func (p *pace) throttled() {
	p.target = max(1, p.target/2)
	p.before, p.resting, p.settle, p.asked = 0, patience, true, true
}
