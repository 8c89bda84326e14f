package sweep

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A wrong selector, or a DaemonSet that was deleted: no agent was ever seen.
func TestNoAgentsAtAll(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(3)
		clear(w.pods)
		s := w.sweep()
		w.pass(s, time.Hour)
		var at []string
		for _, r := range w.withdrawn {
			at = append(at, r[strings.Index(r, "@"):])
		}
		if diff := cmp.Diff([]string{"@360", "@420", "@480"}, at); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		if w.told[0].Reason != EventAgentsMissing || !w.told[0].Warning || !w.told[0].Time.Before(w.started.Add(301*time.Second)) {
			t.Errorf("the first event is %+v", w.told[0])
		}
		if n := w.reasons()[EventAgentsMissing]; n != 1 {
			t.Errorf("%d warnings", n)
		}
	})
}

// Most agents go at once: one node a minute, to the end, also when fewer than
// half are left; those that return in time keep their labels.
func TestMassFailure(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(20)
		s := w.sweep()
		w.pass(s, time.Minute)
		for i := range 12 {
			w.pod(fmt.Sprintf("p-n%02d", i), fmt.Sprintf("n%02d", i), false)
		}
		w.pass(s, 10*time.Minute)
		if n := len(w.withdrawn); n < 4 || n > 5 {
			t.Fatalf("%d removals in 10 minutes", n)
		}
		for i := range 12 {
			name := fmt.Sprintf("n%02d", i)
			if w.nodes[name].says() && i%2 == 0 {
				w.pod("p-"+name, name, true)
			}
		}
		gone := slices.Clone(w.withdrawn)
		w.pass(s, 3*time.Minute)
		if n := len(w.withdrawn) - len(gone); n > 3 {
			t.Errorf("%d removals in 3 minutes", n)
		}
		w.pass(s, time.Hour)
		for name, n := range w.nodes {
			if p := w.pods["p-"+n.UID[4:]]; p.Ready != n.says() {
				t.Errorf("%s: ready %v, labelled %v", name, p.Ready, n.says())
			}
		}
	})
}

// A few dead nodes in a large fleet go at the normal pace.
func TestPace(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(60)
		s := w.sweep()
		w.pass(s, time.Minute)
		for i := range 20 {
			w.pod(fmt.Sprintf("p-n%02d", i), fmt.Sprintf("n%02d", i), false)
		}
		w.pass(s, 6*time.Minute)
		if n := len(w.withdrawn); n < 6 || n > 7 {
			t.Errorf("%d removals in the first minute", n)
		}
		w.pass(s, 4*time.Minute)
		if len(w.withdrawn) != 20 || len(w.reasons()) != 1 {
			t.Errorf("%d removals, events %v", len(w.withdrawn), w.reasons())
		}
	})
}
