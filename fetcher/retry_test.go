package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func retrier(attempts int) *Fetcher {
	return New(Options{Logger: slog.New(slog.DiscardHandler), Attempts: attempts})
}

// A source that says how long to wait is never asked sooner.
func TestRetryHonoursRetryAfter(t *testing.T) {
	for _, kind := range []error{ErrThrottled, ErrTransient} {
		for _, wait := range []time.Duration{time.Second, 56 * time.Second, 10 * time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				var tries []time.Time
				f := New(Options{Logger: slog.New(slog.DiscardHandler), Patience: time.Hour})
				err := f.retry(t.Context(), "test", new(gate), func(context.Context) (int64, error) {
					tries = append(tries, time.Now())
					if len(tries) < 4 {
						return 0, fmt.Errorf("wrapped: %w", &Error{Kind: kind, Op: "test", RetryAfter: wait, Err: io.EOF})
					}
					return 1 << 20, nil
				})
				if err != nil || len(tries) != 4 {
					t.Fatalf("%d tries, %v", len(tries), err)
				}
				for i := 1; i < len(tries); i++ {
					if after := tries[i].Sub(tries[i-1]); after < wait || after > wait+time.Second {
						t.Errorf("%v: asked again after %s, told to wait %s", kind, after, wait)
					}
				}
			})
		}
	}
}

// A source that asks for more patience than there is ends the pull at once, and the
// error has for how long it asked.
func TestRetryIsNotPatientForEver(t *testing.T) {
	for _, c := range []struct {
		asked, timeout time.Duration
		waits          bool
	}{
		{asked: 10 * time.Minute, waits: true},
		{asked: 10*time.Minute + time.Second},
		{asked: 30 * 365 * 24 * time.Hour},
		{asked: 1<<63 - 1},
		{asked: time.Minute, timeout: 2 * time.Minute, waits: true},
		{asked: time.Minute, timeout: 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if c.timeout > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), c.timeout)
			}
			defer cancel()
			start, tries := time.Now(), 0
			err := retrier(6).retry(ctx, "test", new(gate), func(context.Context) (int64, error) {
				if tries++; tries > 1 {
					return 1 << 20, nil
				}
				return 0, &Error{Kind: ErrThrottled, Op: "test", RetryAfter: c.asked, Err: io.EOF, Hint: "wait"}
			})
			if c.waits {
				if err != nil || tries != 2 {
					t.Errorf("asked for %s: %d tries, %v", c.asked, tries, err)
				}
				return
			}
			want := "gave up after 1 try: test: EOF, and asks to wait " + c.asked.Round(time.Second).String() + "; try again then"
			if err == nil || err.Error() != want || !errors.Is(err, ErrThrottled) || tries != 1 || time.Since(start) != 0 {
				t.Errorf("asked for %s: %d tries, %v, after %s; want %q", c.asked, tries, err, time.Since(start), want)
			}
		})
	}
}

// While the source asks one request for patience, no other request of the pull
// goes out.
func TestGateHoldsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, g := retrier(6), new(gate)
		start := time.Now()
		var mu sync.Mutex
		var asked []time.Duration
		ask := func(throttled bool) {
			first := true
			err := f.retry(t.Context(), "test", g, func(context.Context) (int64, error) {
				mu.Lock()
				asked = append(asked, time.Since(start))
				mu.Unlock()
				if throttled && first {
					first = false
					return 0, &Error{Kind: ErrThrottled, Op: "test", RetryAfter: 40 * time.Second, Err: io.EOF}
				}
				return 1 << 20, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { ask(true) })
		synctest.Wait()
		for i := range 5 {
			wg.Go(func() {
				if err := sleep(t.Context(), time.Duration(i)*9*time.Second); err != nil {
					t.Error(err)
				}
				ask(false)
			})
		}
		wg.Wait()
		for _, at := range asked[1:] {
			if at < 40*time.Second {
				t.Errorf("a request went out after %s", at)
			}
		}
		if len(asked) != 7 {
			t.Errorf("%d requests, want 7", len(asked))
		}
	})
}

// A second throttling that ends sooner does not open the gate early.
func TestGateKeepsTheLongerWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, start := new(gate), time.Now()
		g.close(time.Minute)
		g.close(time.Second)
		if err := g.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("opened after %s", waited)
		}
	})
}

func TestRetryGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		tries int
	}{
		"passing":      {&Error{Kind: ErrTransient, Op: "x", Err: io.EOF}, 6},
		"no kind":      {io.ErrUnexpectedEOF, 6},
		"throttled":    {&Error{Kind: ErrThrottled, Op: "x", Err: io.EOF}, 6},
		"refused":      {&Error{Kind: ErrRefused, Op: "x", Err: io.EOF}, 1},
		"unsupported":  {fmt.Errorf("x: %w", ErrUnsupported), 1},
		"corrupt":      {&Error{Kind: ErrCorrupt, Op: "x", Err: io.EOF}, 1},
		"no space":     {fmt.Errorf("x: %w", ErrNoSpace), 1},
		"our own disk": {&Error{Kind: errLocal, Op: "x", Err: io.EOF}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			start := time.Now()
			err := retrier(6).retry(t.Context(), "test", new(gate), func(context.Context) (int64, error) {
				tries++
				return 0, c.err
			})
			if !errors.Is(err, c.err) || tries != c.tries {
				t.Errorf("%s: %d tries, %v; want %d", name, tries, err, c.tries)
			}
			if told := "gave up after 6 tries without progress: "; err != nil && strings.HasPrefix(err.Error(), told) != (tries > 1) {
				t.Errorf("%s: %v; want its number of tries if it is tried again", name, err)
			}
			if took := time.Since(start); tries > 1 && (took < 3*time.Second || took > time.Minute) {
				t.Errorf("%s: took %s", name, took)
			}
		})
	}
}

// A source that breaks every connection after a few bytes makes no progress.
func TestRetryGivesUpAfterCrumbs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		err := retrier(6).retry(t.Context(), "test", new(gate), func(context.Context) (int64, error) {
			tries++
			return 100, &Error{Kind: ErrTransient, Op: "x", Err: io.ErrUnexpectedEOF}
		})
		if !errors.Is(err, io.ErrUnexpectedEOF) || tries != 6 {
			t.Errorf("%d tries, %v", tries, err)
		}
	})
}

// Progress counts: a connection that breaks after some bytes is no failure in a
// row.
func TestRetryGoesOnWhileThereIsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		err := retrier(2).retry(t.Context(), "test", new(gate), func(context.Context) (int64, error) {
			if tries++; tries == 50 {
				return 1 << 20, nil
			}
			return 1 << 20, &Error{Kind: ErrTransient, Op: "x", Err: io.ErrUnexpectedEOF}
		})
		if err != nil || tries != 50 {
			t.Errorf("%d tries, %v", tries, err)
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		done := make(chan error)
		go func() {
			done <- retrier(6).retry(ctx, "test", new(gate), func(context.Context) (int64, error) {
				return 0, &Error{Kind: ErrThrottled, Op: "x", RetryAfter: time.Minute, Err: io.EOF}
			})
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || time.Since(start) != 0 {
			t.Errorf("ended with %v after %s", err, time.Since(start))
		}
	})
}

func TestBackoff(t *testing.T) {
	for failures := 1; failures < 100; failures++ {
		if d := backoff(failures); d < backoffMin/2 || d > backoffMax*3/2 {
			t.Errorf("after %d failures: %s", failures, d)
		}
	}
}
