package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The first model is told at once, and those that follow together, ever more rarely.
func TestWarmedTogether(t *testing.T) {
	var w warmed
	start := time.Unix(1_800_000_000, 0)
	var told []string
	for s := range 40 * 60 {
		if s < 1200 && s%10 == 0 {
			w.add(fmt.Sprintf("m-%03d", s/10), "warm at revision 0123, 15 GiB")
		}
		if s == 5 {
			w.drop("m-000") // told already
		}
		if s == 15 {
			w.drop("m-001")
		}
		if s == 2000 {
			w.add("late", "warm at revision 4567, 1 GiB")
		}
		if e, ok := w.due(start.Add(time.Duration(s) * time.Second)); ok {
			if e.Reason != EventModelWarm || e.Subject != "" || e.Warning {
				t.Errorf("the event is %+v", e)
			}
			told = append(told, fmt.Sprintf("%d %s", s, e.Note))
		}
	}
	want := []string{
		"0 m-000: warm at revision 0123, 15 GiB",
		"60 5 models warm: m-002, m-003, m-004, m-005, m-006",
		"180 12 models warm: m-007, m-008, m-009, m-010, m-011, m-012, m-013, m-014, m-015, m-016 and 2 more",
		"420 24 models warm: m-019, m-020, m-021, m-022, m-023, m-024, m-025, m-026, m-027, m-028 and 14 more",
		"900 48 models warm: m-043, m-044, m-045, m-046, m-047, m-048, m-049, m-050, m-051, m-052 and 38 more",
		"1380 29 models warm: m-091, m-092, m-093, m-094, m-095, m-096, m-097, m-098, m-099, m-100 and 19 more",
		"2000 late: warm at revision 4567, 1 GiB",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for i := range 20 {
		w.add(strings.Repeat("m", 62)+string(rune('a'+i)), "x")
	}
	if e, ok := w.due(start.Add(time.Hour)); !ok || len(e.Note) > maxNote {
		t.Errorf("a note has %d bytes", len(e.Note))
	}
}

// A thousand agents that start at once read their Nodes all the time, not all at once.
func TestResyncsSpread(t *testing.T) {
	const agents, seconds = 1000, 600
	var reads [seconds]int
	for range agents {
		var at, in time.Duration
		for {
			in = nextResync(in, time.Minute)
			if in <= 0 || in > time.Minute {
				t.Fatalf("the next one is due in %s", in)
			}
			if at += in; at >= seconds*time.Second {
				break
			}
			reads[at/time.Second]++
		}
	}
	for s, n := range reads {
		if n > 3*agents/60 {
			t.Errorf("%d of %d agents read their Nodes in second %d", n, agents, s)
		}
	}
}
