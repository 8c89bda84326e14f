package fetcher_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// From a far source all connections are used at once, and they end together,
// however different they are and whoever falls silent.
func TestFarSource(t *testing.T) {
	even := perConnection(mib)
	for name, c := range map[string]struct {
		latency time.Duration
		rate    func(connection, open int) float64
		within  time.Duration
	}{
		"every connection alike": {40 * time.Millisecond, even, 2600 * time.Millisecond},
		"over half a world":      {300 * time.Millisecond, even, 4500 * time.Millisecond},
		"each of another rate": {40 * time.Millisecond, func(connection, _ int) float64 {
			return mib * (0.2 + 1.6*float64(connection%9)/8)
		}, 4 * time.Second},
		"some never begin": {40 * time.Millisecond, func(connection, _ int) float64 {
			if connection < 32 && connection%8 == 3 {
				return 0.001
			}
			return mib
		}, 5200 * time.Millisecond},
		"near, and as slow": {time.Millisecond, even, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{content: random(1, 64*mib), latency: c.latency, rate: c.rate}
				_, took := l.mustPull(t, func(o *fetcher.Options) { o.StallTimeout = time.Hour })
				if took < 2*time.Second || took > c.within {
					t.Errorf("took %s, want at most %s", took, c.within)
				}
				if l.most > 32 {
					t.Errorf("%d connections at once", l.most)
				}
				if extra := l.sent - int64(len(l.content)); extra < 0 || extra > 4*mib {
					t.Errorf("%d bytes were sent in vain", extra)
				}
			})
		})
	}
}

// A far source that lets every range wait is soon known as one: no range is asked
// for again and again.
func TestFarSourceThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 32*mib), latency: 40 * time.Millisecond, rate: perConnection(4 * mib)}
		l.refuse = func(request int, _, _ int64) error {
			if request > 0 {
				<-time.After(10 * time.Second)
			}
			return nil
		}
		_, took := l.mustPull(t, nil)
		offsets := map[int64]int{}
		for _, r := range l.requests {
			offsets[r.offset]++
		}
		for offset, n := range offsets {
			if n > 3 {
				t.Errorf("%d requests for the range at %d", n, offset)
			}
		}
		if took > 45*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// A far source that asks for patience is asked no more often than a near one, whose
// four connections have six tries each, and is not met by all connections after it.
func TestFarSourceThatThrottles(t *testing.T) {
	throttled := func(wait time.Duration) error {
		return &fetcher.Error{Kind: fetcher.ErrThrottled, Op: "open", Err: errors.New("too many requests"), RetryAfter: wait}
	}
	for _, latency := range []time.Duration{time.Millisecond, 40 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			l := &link{content: random(1, 64*mib), latency: latency, rate: perConnection(mib)}
			l.refuse = func(request int, _, _ int64) error {
				if request < 2 {
					return nil
				}
				return throttled(5 * time.Second)
			}
			_, took, err := l.pull(t.Context(), t.TempDir(), func(o *fetcher.Options) { o.Jobs = 32 })
			if !errors.Is(err, fetcher.ErrThrottled) || took > 2*time.Minute || len(l.requests) > 28 {
				t.Errorf("%s away, after %s and %d requests it ended with %v", latency, took, len(l.requests), err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := &link{content: random(1, 64*mib), latency: 40 * time.Millisecond, rate: perConnection(mib)}
		l.refuse = func(request int, _, _ int64) error {
			if request < 4 {
				return throttled(2 * time.Second)
			}
			return nil
		}
		l.mustPull(t, nil)
		if l.most > 8 {
			t.Errorf("%d connections after it asked for patience", l.most)
		}
	})
}

// Whoever limits the rate fetches nothing twice.
func TestFarSourceWithinLimit(t *testing.T) {
	for _, limit := range []int64{128 << 10, 512 << 10, 4 * mib} {
		synctest.Test(t, func(t *testing.T) {
			l := &link{content: random(1, 32*mib), latency: 40 * time.Millisecond, rate: perConnection(64 * mib)}
			l.mustPull(t, func(o *fetcher.Options) { o.MaxRate = limit })
			if extra := l.sent - int64(len(l.content)); extra > mib/2 {
				t.Errorf("at %d bytes a second, %d were fetched twice", limit, extra)
			}
		})
	}
}
