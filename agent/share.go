package agent

import (
	"strconv"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// share is what this node reads next.
type share struct {
	of    surveyed
	files []int
	rate  float64 // bytes per second
	point store.ScrubPoint
	// own: each node reads these files itself. Else others were told at claimed that
	// this one does until then.
	own            bool
	claimed, until time.Time
	// calm: it is read without hurry.
	calm bool
}

func (s *share) size() int64 { return s.of.Files[s.files[0]].Size }

// claimFor is how often a claim is renewed: what a node had claimed that died is not
// read for three times that.
func (x *inspector) claimFor() time.Duration {
	set := x.setting.Load()
	return max(2*set.look, set.scrub.Cycle/48)
}

// claim tells others what this node reads.
func (x *inspector) claim(l *ledger, s *share, now time.Time) {
	if s.claimed.IsZero() || now.Sub(s.claimed) >= x.claimFor() {
		s.claimed, s.until = now, now.Add(3*x.claimFor())
	}
	acc := l.open(s.of.key, len(s.of.Files), now, x.setting.Load().scrub.Cycle)
	acc.Claims = append(acc.Claims, claim{Node: x.node, From: s.files[0], To: s.files[len(s.files)-1] + 1, Until: s.until})
}

// goOn returns the share that is being read, claimed again, unless something more
// urgent has come up.
func (x *inspector) goOn(l *ledger, now time.Time) *share {
	w := x.work
	if w == nil || w.own {
		return w
	}
	cycle := x.setting.Load().scrub.Cycle
	for _, m := range x.models {
		if len(x.mustRead(m, l.open(m.key, len(m.Files), now, cycle), now)) > 0 {
			return nil
		}
	}
	x.claim(l, w, now)
	if w.calm {
		w.rate = x.calm(l, w.of.key.Zone, now) // others may have come, or gone
	}
	return w
}

// calm is how fast, in bytes per second, one node reads what is known to be right, so
// that all together are done within the cycle.
func (x *inspector) calm(l *ledger, zone string, now time.Time) float64 {
	cfg := x.setting.Load().scrub
	var total int64
	for _, m := range x.models {
		total += m.Bytes
	}
	together := calmFactor * float64(max(total, 1)) / cfg.Cycle.Seconds()
	return min(float64(cfg.Rate), together/float64(1+l.readers(x.node, zone, now)))
}

// take chooses what this node reads next and claims it: first what it must read
// itself, then what nobody knows to be right, then what is to be read once more. nil if
// there is nothing to read.
func (x *inspector) take(l *ledger, zone string, now time.Time) *share {
	set := x.setting.Load()
	accounts := make([]*account, len(x.models))
	for i, m := range x.models {
		accounts[i] = l.open(m.key, len(m.Files), now, set.scrub.Cycle)
	}
	calm := x.calm(l, zone, now)
	for i, m := range x.models {
		if files := x.mustRead(m, accounts[i], now); len(files) > 0 {
			return &share{of: m, files: files, rate: float64(set.scrub.Rate), own: true}
		}
	}
	for _, unknown := range []bool{true, false} {
		rate := calm
		if unknown {
			rate = float64(set.scrub.Rate)
		}
		for i, m := range x.models {
			if files := x.free(m, accounts[i], unknown, now, rate); len(files) > 0 {
				s := &share{of: m, files: files, rate: rate, calm: !unknown}
				x.claim(l, s, now)
				return s
			}
		}
	}
	return nil
}

// mustRead are the files that somebody has found wrong and that this node has not read
// in this round.
func (x *inspector) mustRead(m surveyed, p *account, now time.Time) []int {
	var files []int
	for i := range m.Files {
		if !p.wrong(i) || now.Before(x.passed[m.key][i]) {
			continue
		}
		own, read := x.judged[m.key][i]
		if !read {
			own, read = p.Contested[strconv.Itoa(i)][x.node]
		}
		if !read || own.At.Before(p.Began) {
			files = append(files, i)
		}
	}
	return files
}

// free are some files in a row of which nobody has read any in this round, or does
// now: as many as are read in about the time between two looks.
func (x *inspector) free(m surveyed, p *account, unknown bool, now time.Time, rate float64) []int {
	var files []int
	most := int64(rate * x.setting.Load().look.Seconds())
	var bytes int64
	for i, f := range m.Files {
		is := !p.Done.has(i) && !p.wrong(i) && !p.claimed(i, x.node, now) && (!unknown || !m.seen.Known[i])
		if own, read := x.judged[m.key][i]; read && !own.At.Before(p.Began) || now.Before(x.passed[m.key][i]) {
			is = false // it is about to be said, or could not be read
		}
		switch {
		case is && (len(files) == 0 || bytes+f.Size <= most):
			files, bytes = append(files, i), bytes+max(f.Size, scrubLeast)
		case len(files) > 0:
			return files
		}
	}
	return files
}
