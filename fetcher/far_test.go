package fetcher_test

import (
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
			if connection%8 == 3 {
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
