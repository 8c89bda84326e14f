package sweep

import (
	"testing"
	"time"
)

func TestBareSince(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	ago := func(minutes int) time.Time { return now.Add(-time.Duration(minutes) * time.Minute) }
	bare := func(minutes int) pod { return pod{Since: ago(minutes)} }
	ready := pod{Ready: true, Since: ago(1)}
	for _, c := range []struct {
		name string
		e    evidence
		want int // minutes; -1: attended
	}{
		{"nothing is known yet", evidence{}, 0},
		{"no pod, seen so for a while", evidence{Bare: ago(7)}, 7},
		{"a ready pod", evidence{Pods: []pod{ready}, Bare: ago(7)}, -1},
		{"a ready pod beside one that is not", evidence{Pods: []pod{bare(60), ready}}, -1},
		{"a pod tells what was before the start", evidence{Pods: []pod{bare(60)}}, 60},
		{"of several the latest counts", evidence{Pods: []pod{bare(60), bare(9)}}, 9},
		{"one that tells nothing proves nothing", evidence{Pods: []pod{bare(60), {}}, Bare: ago(2)}, 2},
		{"a new pod does not put the clock back", evidence{Pods: []pod{bare(1)}, Bare: ago(30)}, 30},
		{"a kubelet whose clock is slow", evidence{Pods: []pod{bare(600)}, Bare: ago(1), Attended: ago(1)}, 1},
		{"a kubelet whose clock is fast", evidence{Pods: []pod{bare(-30)}, Bare: ago(4)}, 4},
		{"an agent wrote", evidence{Pods: []pod{bare(60)}, Bare: ago(30), Wrote: ago(3)}, 3},
		{"the API server was away", evidence{Pods: []pod{bare(60)}, Bare: ago(30), Floor: ago(2)}, 2},
		{"a write from long ago", evidence{Bare: ago(10), Wrote: ago(900)}, 10},
	} {
		since, isBare := c.e.bareSince(now)
		want := ago(c.want)
		if c.want < 0 {
			want = time.Time{}
		}
		if !since.Equal(want) || isBare != (c.want >= 0) {
			t.Errorf("%s: bare %v since %s, want since %s", c.name, isBare, since, want)
		}
	}
}

func TestPatience(t *testing.T) {
	for withdrawals, minutes := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256} {
		if got, want := patience(time.Minute, withdrawals), time.Duration(minutes)*time.Minute; got != want {
			t.Errorf("after %d withdrawals: %s, want %s", withdrawals, got, want)
		}
	}
}

func TestSuspicious(t *testing.T) {
	for _, c := range []struct {
		bare, labelled int
		everReady      bool
		want           bool
	}{
		{0, 0, false, false},
		{0, 10, false, false},
		{1, 10, false, true}, // no agent was ever seen: the selector may be wrong
		{1, 1, true, false},
		{3, 3, true, false}, // too few to tell
		{4, 4, true, true},
		{5, 10, true, false},
		{6, 10, true, true},
	} {
		if got := suspicious(c.bare, c.labelled, c.everReady); got != c.want {
			t.Errorf("%d of %d without agent, ever ready %v: %v", c.bare, c.labelled, c.everReady, got)
		}
	}
}

func TestPerMinute(t *testing.T) {
	for _, c := range []struct{ labelled, normal, slow int }{{0, 6, 1}, {1, 6, 1}, {60, 6, 1}, {100, 10, 2}, {5000, 500, 100}} {
		if n, s := perMinute(c.labelled, false), perMinute(c.labelled, true); n != c.normal || s != c.slow {
			t.Errorf("%d nodes: %d and %d a minute, want %d and %d", c.labelled, n, s, c.normal, c.slow)
		}
	}
}
