package fetcher

import "testing"

// looks has the pace look at a link n times and returns every number of
// connections that it chose.
func looks(p *pace, n int, rate func(connections int) float64) []int {
	var targets []int
	for range n {
		p.look(rate(p.target), true)
		targets = append(targets, p.target)
	}
	return targets
}

// most is how many connections were in use for at least a tenth of the looks.
func most(targets []int) int {
	count := map[int]int{}
	for _, n := range targets {
		count[n]++
	}
	best := 0
	for n, times := range count {
		if times*10 >= len(targets) {
			best = max(best, n)
		}
	}
	return best
}

func TestPace(t *testing.T) {
	upTo := func(full int) func(int) float64 {
		return func(n int) float64 { return 20e6 * float64(min(n, full)) }
	}
	for name, c := range map[string]struct {
		limit int
		rate  func(int) float64
		want  int // connections that stay
		peak  int // at most, also while trying
	}{
		"each has its own rate":       {32, upTo(1000), 32, 32},
		"up to sixteen":               {64, upTo(16), 16, 32},
		"the link is full with four":  {64, upTo(4), 4, 8},
		"the link is full with one":   {64, upTo(1), 4, 16},
		"one is allowed":              {1, upTo(1000), 1, 1},
		"three are allowed":           {3, upTo(1000), 3, 3},
		"five are allowed":            {5, upTo(1000), 5, 5},
		"more do harm":                {64, func(n int) float64 { return 100e6 / float64(n) }, 4, 16},
		"ten percent is no gain":      {64, func(n int) float64 { return 100e6 + float64(n) }, 4, 8},
		"nothing arrives":             {64, func(int) float64 { return 0 }, 4, 4},
		"a little more each time":     {64, func(n int) float64 { return 100e6 * (2 - 4/float64(n)) }, 64, 64},
		"slow, each for itself":       {64, func(n int) float64 { return 1e6 * float64(n) }, 64, 64},
		"slow, up to sixteen":         {256, func(n int) float64 { return 1e6 * float64(min(n, 16)) }, 16, 64},
		"fast, each for itself":       {64, func(n int) float64 { return 200e6 * float64(n) }, 64, 64},
		"fast, and full with four":    {64, func(n int) float64 { return 200e6 * float64(min(n, 4)) }, 4, 8},
		"the clock stood still (NaN)": {64, func(int) float64 { return -1 }, 4, 4},
	} {
		t.Run(name, func(t *testing.T) {
			targets := looks(newPace(c.limit), 300, c.rate)
			peak := 0
			for _, n := range targets {
				peak = max(peak, n)
			}
			if got := most(targets); got != c.want || peak > c.peak {
				t.Errorf("%d connections stayed, %d at most; want %d and %d", got, peak, c.want, c.peak)
			}
		})
	}
}

// A link that gets better is noticed, and one that got worse is not blamed on
// the number of connections for ever.
func TestPaceFollowsTheLink(t *testing.T) {
	p := newPace(64)
	looks(p, 100, func(int) float64 { return 50e6 })
	if p.target > 16 {
		t.Fatalf("%d connections on a full link", p.target)
	}
	targets := looks(p, 1200, func(n int) float64 { return 50e6 * float64(n) })
	if last := targets[len(targets)-1]; last != 64 {
		t.Errorf("%d connections, though each brings more", last)
	}
}

func TestPaceThrottled(t *testing.T) {
	p := newPace(64)
	grow := func(n int) float64 { return 1e6 * float64(n) }
	looks(p, 20, grow)
	before := p.target
	p.throttled()
	if p.target != before/2 {
		t.Errorf("%d connections after the source asked for patience with %d", p.target, before)
	}
	for i, n := range looks(p, patience, grow) {
		if n != before/2 {
			t.Fatalf("%d connections %d looks after", n, i)
		}
	}
	for range 20 {
		p.throttled()
	}
	if p.target != 1 {
		t.Errorf("%d connections in the end", p.target)
	}
}

// Over a long way there are all connections at once, and fewer once the source
// asks for patience.
func TestPaceFar(t *testing.T) {
	p := newPace(64)
	p.far()
	for i, n := range looks(p, 100, func(int) float64 { return 1e6 }) {
		if n != 64 {
			t.Fatalf("%d connections %d looks after", n, i)
		}
	}
	p.throttled()
	if p.target != 32 {
		t.Errorf("%d connections after the source asked for patience with 64", p.target)
	}
}

// Where there is not enough to do for all, a look says nothing.
func TestPaceIgnoresIdleLooks(t *testing.T) {
	p := newPace(64)
	for range 100 {
		p.look(1e6, false)
	}
	if p.target != beginWith {
		t.Errorf("%d connections", p.target)
	}
}
