package fetchertest

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"
)

// Quota is how many requests the Hub answers in a window of time; zero fields
// take the numbers of a free account: 1,000 API calls and 5,000 resolves per
// 5 minutes.
type Quota struct {
	API, Resolves int
	Window        time.Duration
}

func (q Quota) withDefaults() Quota {
	if q.API == 0 {
		q.API = 1000
	}
	if q.Resolves == 0 {
		q.Resolves = 5000
	}
	if q.Window == 0 {
		q.Window = 5 * time.Minute
	}
	return q
}

// window counts requests of one quota in fixed windows.
type window struct {
	name   string
	limit  int
	length time.Duration

	mu   sync.Mutex
	ends time.Time
	used int
}

// take counts a request, says in header how much is left, and reports whether
// the quota allowed it. A refused request is not counted.
func (w *window) take(header http.Header, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !now.Before(w.ends) {
		w.ends, w.used = now.Add(w.length), 0
	}
	allowed := w.used < w.limit
	if allowed {
		w.used++
	}
	left := int(math.Ceil(w.ends.Sub(now).Seconds()))
	header.Set("RateLimit", fmt.Sprintf("%q;r=%d;t=%d", w.name, w.limit-w.used, left))
	header.Set("RateLimit-Policy", fmt.Sprintf(`"fixed window";%q;q=%d;w=%d`, w.name, w.limit, int(w.length.Seconds())))
	return allowed
}

// pacer holds all bodies together to a rate.
type pacer struct {
	mu   sync.Mutex
	rate int64 // bytes per second; 0: unlimited
	next time.Time
}

func (p *pacer) set(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.next = rate, time.Time{}
}

// piece is how much is written at once under a rate: small enough that bytes
// flow evenly.
const piece = 32 << 10

// wait returns when n more bytes may be sent, or ctx has ended.
func (p *pacer) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	if p.rate == 0 {
		p.mu.Unlock()
		return ctx.Err()
	}
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	pause := p.next.Sub(now)
	p.mu.Unlock()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
