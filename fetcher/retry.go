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
	// yields: where a quota is used up, a request is not waited with, but ends.
	yields bool
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

// leastProgress is how many bytes a row of failing tries must have brought to be more
// than none: a source that breaks each connection after a byte would never end.
const leastProgress = 16 << 10

// retry runs try until it succeeds, fails for good, or fails without progress
// Attempts times in a row, or for as long as Patience. try returns how many bytes it
// got further. The error of who gave up has the number of tries.
func (f *Fetcher) retry(ctx context.Context, what string, g *gate, try func(context.Context) (got int64, err error)) error {
	failures, progress, got := 0, time.Now(), int64(0)
	for {
		if err := g.wait(ctx); err != nil {
			return err
		}
		n, err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !retryable(err) {
			return err
		}
		if got += n; got >= leastProgress && !errors.Is(err, ErrSlow) {
			failures, progress, got = 0, time.Now(), 0
		}
		quota := QuotaOf(err)
		if quota.Host != "" && g.yields {
			return err
		}
		if !quota.Held { // else nobody was asked
			failures++
		}
		if failures >= f.o.Attempts {
			return gaveUp(err, failures)
		}
		wait := backoff(max(1, failures))
		var e *Error
		asked := errors.As(err, &e) && e.RetryAfter > 0
		if asked {
			wait = e.RetryAfter // as told: never sooner
		}
		if !f.patient(ctx, progress, wait, asked) {
			if asked {
				err = asksToWait(e)
			}
			return gaveUp(err, failures)
		}
		if g.failing != nil {
			g.failing(err)
		}
		if errors.Is(err, ErrThrottled) || asked {
			g.close(wait) // for every connection
		}
		f.o.Logger.Warn("trying again", "doing", what, "after", wait.Round(time.Millisecond).String(), "next", time.Now().Add(wait).Round(time.Second),
			"failures", failures, "error", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// patient says whether a request without progress since then may wait so long for its
// next try. A wait that the source asked for must also end before ctx does: until
// then nothing would be asked.
func (f *Fetcher) patient(ctx context.Context, progress time.Time, wait time.Duration, asked bool) bool {
	left := f.o.Patience - time.Since(progress)
	if deadline, bounded := ctx.Deadline(); bounded && asked && wait >= time.Until(deadline) {
		return false
	}
	return wait <= left
}

// gaveUp is the end of a row of tries without progress.
func gaveUp(err error, tries int) error {
	switch tries {
	case 0: // nobody was asked
		return err
	case 1:
		return fmt.Errorf("gave up after 1 try: %w", err)
	}
	return fmt.Errorf("gave up after %d tries without progress: %w", tries, err)
}

// asksToWait is the failure of a source that asks for more patience than there is.
func asksToWait(e *Error) error {
	last := *e
	last.Err = fmt.Errorf("%w, and asks to wait %s", e.Err, e.RetryAfter.Round(time.Second))
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
