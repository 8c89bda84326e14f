package fetcher

import (
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// How files are divided into ranges.
const (
	// tickEvery is how often the speed of each connection is sampled.
	tickEvery = 100 * time.Millisecond
	// A range lasts about as long, so that the request before it costs little
	// and what is written ahead of a file's front stays in the page cache.
	chunkTime          = 4 * time.Second
	chunkMin, chunkMax = 8 << 20, 128 << 20
	chunkFirst         = 32 << 20 // while the rate is not known
	// From farRoundTrip on a source is far; where round trips are not known, if its
	// answers take so long, and not so long that it is busy. What a connection brings
	// is then bound by round trips and losses. So all connections are used at once, and
	// ranges become shorter towards the end of the pull, so that the connections end
	// together.
	farRoundTrip          = 10 * time.Millisecond
	farAnswer, busyAnswer = 20 * time.Millisecond, 500 * time.Millisecond
	chunkFar              = 256 << 10
	// A range is divided between two connections if it ends so much sooner, or,
	// from a far source, by two answers' time and at least gainFar.
	gainNear, gainFar = time.Second, 100 * time.Millisecond
	divideMin         = 64 << 10
	// Of a far source, a connection that has brought nothing for so long, and for
	// five answers' time, loses its range. The next one has four times as long.
	silentFar = 300 * time.Millisecond
)

// measureWay notices that the source is far.
func (d *dispatcher) measureWay() {
	if d.far || !d.p.known().far() {
		return
	}
	d.far = true
	d.hearThrottled()
	d.pace.far()
	// Ranges to a file's end were given out.
	for _, t := range d.open {
		for _, c := range t.claims {
			if rest, chunk := c.unread(), d.length(); !c.whole && rest.Bytes() > 2*chunk {
				c.cut(rest.From + chunk)
			}
		}
	}
}

// sample takes a look at the speed of each connection.
func (d *dispatcher) sample(now time.Time) {
	sum, n := 0.0, 0
	for _, t := range d.open {
		for _, c := range t.claims {
			c.speed.sample(now, c.unread().From-c.from)
			if c.speed.samples >= speedSamples {
				sum, n = sum+c.speed.rate, n+1
			}
		}
	}
	if n > 0 {
		d.usual = sum / float64(n)
	}
}

// speedSamples is how many samples tell a connection's speed.
const speedSamples = 3

// remaining is how many bytes of large files nobody brings yet.
func (d *dispatcher) remaining() int64 {
	var n int64
	for _, c := range d.large {
		n += c.file.Size
	}
	for _, t := range d.open {
		n += t.file.Size - t.partial.WrittenBytes()
		for _, c := range t.claims {
			n -= c.rest().Bytes()
		}
	}
	return max(n, 0)
}

// length is how long a range is now. Each is a share of what remains, so that the
// last ones are short.
func (d *dispatcher) length() int64 {
	least := int64(chunkMin)
	if d.far {
		least = max(chunkFar, int64(d.usual*8*d.p.known().answer.Seconds()))
	}
	chunk := min(d.chunk, d.remaining()/int64(2*d.pace.target))
	return max(chunk, min(least, d.chunk)) &^ (writeAlign - 1)
}

// writeAlign is what ranges begin at a multiple of: whole pages.
const writeAlign = 64 << 10

// next is the range that a free connection should bring, or nil. The file with
// the fewest connections comes first.
func (d *dispatcher) next() *claim {
	var best *transfer
	var gap store.Span
	for _, t := range d.open {
		if t.finishing || best != nil && len(t.claims) >= len(best.claims) {
			continue
		}
		g := t.gap()
		if g.Bytes() == 0 {
			continue
		}
		if g.From-t.order.front() > min(2*int64(d.pace.target)*d.chunk, d.p.f.o.Memory/8) {
			// What is written so far ahead would leave the page cache before it
			// is hashed.
			d.p.starved.Store(true)
			continue
		}
		best, gap = t, g
	}
	if best == nil {
		return d.divide(time.Now())
	}
	if best.noRanges.Load() {
		// What is here behind the gap comes again as well.
		gap.To = best.file.Size
		c := newClaim(best, gap)
		c.whole = true
		return c
	}
	if d.fetching()+len(d.large) < d.pace.target {
		gap.To = min(gap.To, gap.From+d.length())
	}
	return newClaim(best, gap)
}

// divide takes a part of the range whose end comes most sooner by it.
func (d *dispatcher) divide(now time.Time) *claim {
	least := gainNear
	if d.far {
		least = max(gainFar, 2*d.p.known().answer)
	}
	var best *claim
	var at int64
	most := least.Seconds()
	for _, t := range d.open {
		for _, c := range t.claims {
			if from, gain := d.division(c, now); gain >= most {
				best, at, most = c, from, gain
			}
		}
	}
	if best == nil {
		return nil
	}
	rest := best.unread()
	if !best.cut(at) {
		return nil
	}
	c := newClaim(best.t, store.Span{From: at, To: min(rest.To, at+d.length())})
	if best.speed.bytes == 0 {
		c.losers = min(best.losers+1, 8)
	}
	return c
}

// division is where a range is best divided, and how many seconds sooner it ends
// then: both connections end at once, after one more answer.
func (d *dispatcher) division(c *claim, now time.Time) (from int64, gain float64) {
	rest := c.unread()
	bytes := float64(rest.Bytes())
	if c.whole || bytes == 0 {
		return 0, 0
	}
	if c.speed.samples == 0 {
		// It waits for its first byte. A source that takes its time would only begin
		// the wait anew, again and again. One that waits for its next try is left
		// alone: each who took over would begin to count failures anew.
		waits := c.waits(now)
		if !d.far || waits < max(silentFar, 5*d.p.known().answer)<<(2*c.losers) {
			return 0, 0
		}
		return rest.From, waits.Seconds()
	}
	if c.speed.samples < speedSamples {
		return 0, 0
	}
	its, usual := max(c.speed.rate, 1), max(d.usual, c.speed.rate, 1)
	alone, latency := bytes/its, d.p.known().answer.Seconds()
	given := (alone - latency) / (1/its + 1/usual)
	kept := bytes - given
	switch {
	case given < divideMin && kept > divideMin:
		return 0, 0
	case kept < divideMin: // it is worth no request
		given = bytes
		if gain = alone - latency - given/usual; gain <= 0 {
			return 0, 0
		}
		return rest.From, gain
	}
	gain = alone - kept/its
	// A range that is much longer than usual was given out when there was a file
	// for every connection: the front of what is left stays.
	return rest.From + min(int64(kept), d.chunk), gain
}
