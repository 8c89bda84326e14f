package fetcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Backoff between tries of one request: doubling, jittered, capped.
const (
	backoffMin = 500 * time.Millisecond
	backoffMax = 30 * time.Second
)

// gate holds every request of a pull back while the source asks for patience:
// a request that goes ahead all the same would prolong it for all.
type gate struct {
	mu    sync.Mutex
	until time.Time
	// failing, if not nil, hears why a try failed that is made again.
	failing func(error)
}

func (g *gate) close(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(d); until.After(g.until) {
		g.until = until
	}
}

// wait returns when the gate is open or ctx has ended.
func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		left := time.Until(g.until)
		g.mu.Unlock()
		if left <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, left); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// retry runs try until it succeeds, fails for good, or fails Attempts times in
// a row without progress. try says whether it got any further.
func (f *Fetcher) retry(ctx context.Context, what string, g *gate, try func(context.Context) (progressed bool, err error)) error {
	failures, progress := 0, time.Now()
	for {
		if err := g.wait(ctx); err != nil {
			return err
		}
		progressed, err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !retryable(err) {
			return err
		}
		if progressed && !errors.Is(err, ErrSlow) {
			failures, progress = 0, time.Now()
		}
		failures++
		if failures >= f.o.Attempts {
			return err
		}
		wait := backoff(failures)
		var e *Error
		if errors.As(err, &e) && e.RetryAfter > 0 {
			wait = e.RetryAfter // as told: never sooner
		}
		if impatient := f.impatience(ctx, e, wait); impatient != nil {
			return impatient
		}
		if f.o.Patience > 0 && time.Since(progress)+wait > f.o.Patience {
			return err
		}
		if g.failing != nil {
			g.failing(err)
		}
		if errors.Is(err, ErrThrottled) || e != nil && e.RetryAfter > 0 {
			g.close(wait) // for every connection
		}
		f.o.Logger.Warn("trying again", "doing", what, "after", wait.Round(time.Millisecond).String(), "next", time.Now().Add(wait).Round(time.Second),
			"failures", failures, "error", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// impatience is the end of a pull whose source asks for more patience than there is;
// nil: wait.
func (f *Fetcher) impatience(ctx context.Context, e *Error, wait time.Duration) error {
	deadline, bounded := ctx.Deadline()
	if wait <= f.o.MaxWait && (!bounded || wait < time.Until(deadline)) || e == nil || e.RetryAfter == 0 {
		return nil
	}
	last := *e
	last.Err = fmt.Errorf("%w, and asks to wait %s", e.Err, wait.Round(time.Second))
	last.Hint = "try again then"
	return &last
}

// retryable says whether trying the same again may help. Errors of no kind
// come from connections.
func retryable(err error) bool {
	for _, final := range []error{ErrRefused, ErrUnsupported, ErrCorrupt, ErrNoSpace, errLocal, errWhole} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

func backoff(failures int) time.Duration {
	d := min(backoffMin<<min(failures-1, 16), backoffMax)
	return d/2 + rand.N(d)
}
