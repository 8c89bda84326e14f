package fetcher

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// A caller with little patience gets its place back while the source makes it wait;
// nobody's patience is without an end.
func TestPatience(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		patience time.Duration
		hangs    time.Duration
		want     time.Duration // at which it gives up
		tries    int
	}{
		"a wait that is too long": {&Error{Kind: ErrThrottled, RetryAfter: 5 * time.Minute, Err: io.EOF}, time.Minute, 0, 0, 1},
		"a wait that is not":      {&Error{Kind: ErrThrottled, RetryAfter: 25 * time.Second, Err: io.EOF}, time.Minute, 0, 50 * time.Second, 3},
		"a source that hangs":     {&Error{Kind: ErrTransient, Err: io.EOF}, time.Minute, 30 * time.Second, 60*time.Second + 3*time.Second/4, 2},
		"the default":             {&Error{Kind: ErrThrottled, RetryAfter: 4 * time.Minute, Err: io.EOF}, 0, 0, 8 * time.Minute, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := New(Options{Logger: slog.New(slog.DiscardHandler), Attempts: 100, Patience: c.patience})
				start, tries := time.Now(), 0
				var heard []error
				err := f.retry(t.Context(), "test", &gate{failing: func(err error) { heard = append(heard, err) }}, func(ctx context.Context) (int64, error) {
					tries++
					if err := sleep(ctx, c.hangs); err != nil {
						return 0, err
					}
					return 0, c.err
				})
				if took := time.Since(start); !errors.Is(err, io.EOF) || tries != c.tries || took > c.want || took < c.want-time.Second {
					t.Errorf("%d tries, %s, %v; want %d, %s", tries, took, err, c.tries, c.want)
				}
				if len(heard) != c.tries-1 {
					t.Errorf("heard of %d failures, want %d", len(heard), c.tries-1)
				}
			})
		})
	}
}

// Whatever progress was made counts from there.
func TestPatienceWithProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Options{Logger: slog.New(slog.DiscardHandler), Patience: time.Minute})
		tries := 0
		err := f.retry(t.Context(), "test", new(gate), func(ctx context.Context) (int64, error) {
			if tries++; tries == 50 {
				return 1 << 20, nil
			}
			return 1 << 20, errors.Join(sleep(ctx, 10*time.Minute), io.EOF)
		})
		if err != nil {
			t.Errorf("after %d tries: %v", tries, err)
		}
	})
}

// A trickle is no progress: it would hold a pull for ever.
func TestSlowIsNoProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		err := retrier(6).retry(t.Context(), "test", new(gate), func(context.Context) (int64, error) {
			tries++
			return 1 << 20, &Error{Kind: ErrTransient, Err: ErrSlow}
		})
		if !errors.Is(err, ErrSlow) || tries != 6 {
			t.Errorf("%d tries, %v", tries, err)
		}
	})
}

// What a driver refuses by itself is no try: however often, it is waited out. A try that
// the source refused counts.
func TestHeldBackIsNoTry(t *testing.T) {
	for _, held := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f, tries := New(Options{Logger: slog.New(slog.DiscardHandler), Attempts: 3, Patience: time.Hour}), 0
			err := f.retry(t.Context(), "test", new(gate), func(context.Context) (int64, error) {
				if tries++; tries == 10 {
					return 1 << 20, nil
				}
				return 0, &Error{Kind: ErrThrottled, RetryAfter: time.Minute, Quota: Quota{Host: "hub", Held: held}, Err: io.EOF}
			})
			if held && (err != nil || tries != 10) || !held && (err == nil || tries != 3) {
				t.Errorf("held %t: %d tries, %v", held, tries, err)
			}
		})
	}
}
