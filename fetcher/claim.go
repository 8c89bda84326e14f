package fetcher

import (
	"context"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// claim is a range of a file that one connection brings, from its front to its
// end. The dispatcher may cut it short for the sake of another connection.
type claim struct {
	t     *transfer
	from  int64
	began time.Time
	// whole claims are of a source that gives no ranges.
	whole bool
	// relieved ends the connection: there is nothing left for it to bring.
	relieved context.CancelFunc

	mu  sync.Mutex
	at  int64 // what lies before is written, or being written
	end int64
}

func newClaim(t *transfer, s store.Span) *claim {
	return &claim{t: t, from: s.From, began: time.Now(), at: s.From, end: s.To}
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

// take is asked before n more bytes are written. It returns where they belong
// and how many of them do: what lies behind the end is another's by now.
func (c *claim) take(n int) (at int64, mine int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, mine = c.at, int(min(int64(n), c.end-c.at))
	c.at += int64(mine)
	return at, mine
}

// cut gives back what lies behind end, if the connection has not come as far.
func (c *claim) cut(end int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if end < c.at || end >= c.end {
		return false
	}
	c.end = end
	if c.at == end {
		c.relieved()
	}
	return true
}

// rate is how many bytes per second the connection has brought, and whether it
// has run long enough to tell. One that waits for its first byte, or for the
// next try, tells nothing: taking its range away would only begin the wait anew.
func (c *claim) rate(now time.Time) (float64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ran := now.Sub(c.began)
	return float64(c.at-c.from) / ran.Seconds(), c.at > c.from && ran >= flushEvery+flushEvery/2
}
