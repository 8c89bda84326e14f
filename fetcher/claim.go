package fetcher

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// claim is a range of a file that one connection brings, from its front to its
// end. The dispatcher may cut it short for the sake of another connection.
type claim struct {
	t    *transfer
	from int64
	// whole claims are of a source that gives no ranges.
	whole bool
	// relieved ends the connection: there is nothing left for it to bring.
	relieved context.CancelFunc

	// losers is how many connections have lost it that brought nothing.
	losers int
	speed  speed // the dispatcher's

	mu    sync.Mutex
	asked time.Time // when its connection's request began; zero between two tries
	at    int64     // what lies before is written, or being written
	read  int64     // what lies before is in the buffer, or written
	end   int64
}

func newClaim(t *transfer, s store.Span) *claim {
	return &claim{t: t, from: s.From, at: s.From, read: s.From, end: s.To, speed: speed{at: time.Now()}}
}

// asks notes that a request begins.
func (c *claim) asks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = time.Now()
}

// rests notes that it has ended: the connection waits for its next try, if there is one.
func (c *claim) rests() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = time.Time{}
}

// waits is for how long the request has been under way; 0 between two tries.
func (c *claim) waits(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() {
		return 0
	}
	return now.Sub(c.asked)
}

// span is the whole claim, with what is written.
func (c *claim) span() store.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return store.Span{From: c.from, To: c.end}
}

// rest is what is still to be written.
func (c *claim) rest() store.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return store.Span{From: c.at, To: c.end}
}

// unread is what the connection has not received yet.
func (c *claim) unread() store.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return store.Span{From: min(c.read, c.end), To: c.end}
}

// wants is told how many bytes wait in the buffer, and returns how many more are
// the claim's.
func (c *claim) wants(buffered int) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = c.at + int64(buffered)
	return c.end - c.read
}

// take is asked before n more bytes are written. It returns where they belong
// and how many of them do: what lies behind the end is another's by now.
func (c *claim) take(n int) (at int64, mine int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, mine = c.at, int(min(int64(n), c.end-c.at))
	c.at += int64(mine)
	c.read = c.at
	return at, mine
}

// cut gives back what lies behind end, if the connection has not come as far.
func (c *claim) cut(end int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if end < c.read || end >= c.end {
		return false
	}
	c.end = end
	if c.read == end {
		c.relieved()
	}
	return true
}

// speed is how fast a connection has been lately, sampled by the dispatcher.
type speed struct {
	at      time.Time
	bytes   int64
	rate    float64 // bytes per second
	samples int     // since the first byte
}

// speedTime is how long ago bytes came that count a third.
const speedTime = 500 * time.Millisecond

// sample takes another look at how much has come.
func (s *speed) sample(now time.Time, bytes int64) {
	passed := now.Sub(s.at)
	if passed <= 0 || bytes == 0 {
		s.at = now
		return
	}
	rate := float64(bytes-s.bytes) / passed.Seconds()
	if s.samples == 0 {
		s.rate = rate
	} else {
		s.rate += (rate - s.rate) * (1 - math.Exp(-passed.Seconds()/speedTime.Seconds()))
	}
	s.at, s.bytes = now, bytes
	s.samples++
}
