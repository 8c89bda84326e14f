package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// inTime runs a test with a clock of its own.
func inTime(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func expect(t *testing.T, w *world, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.withdrawn); diff != "" {
		t.Errorf("removals, -want +got\n%s", diff)
	}
}

// A node whose agent dies keeps its labels for the timeout and then loses them,
// once; the others keep theirs.
func TestDeadAgent(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, 10*time.Minute)
		expect(t, w)
		w.pod("p-n02", "n02", false)
		w.pass(s, 290*time.Second)
		expect(t, w)
		w.pass(s, time.Hour)
		expect(t, w, "n02@900")
		if diff := cmp.Diff(map[string]int{EventLabelsWithdrawn: 1}, w.reasons()); diff != "" {
			t.Error(diff)
		}
		e := w.told[0]
		if e.Node != "n02" || e.NodeUID != "uid-n02" || e.Warning || !strings.Contains(e.Note, "no ready agent pod for 5m0s: removed 1 labels and 1 annotations") {
			t.Errorf("the event is %+v", e)
		}
	})
}

// Each of two releases' sweepers sees its own agents' pods only. Neither takes back what
// the other's agents wrote; where no release is named, both look.
func TestTwoReleases(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(6)
		own, other := Release{"ns", "a"}, Release{"elsewhere", "a"}
		for _, name := range []string{"n00", "n01"} {
			w.wrote(name, own)
		}
		for _, name := range []string{"n02", "n03"} {
			w.wrote(name, other)
			delete(w.pods, types.UID("p-"+name)) // in another namespace
		}
		s := w.sweep()
		s.o.Release = own
		w.pass(s, time.Hour)
		expect(t, w)
		delete(w.pods, "p-n01")
		delete(w.pods, "p-n05")
		w.pass(s, time.Hour)
		slices.Sort(w.withdrawn)
		expect(t, w, "n01@3900", "n05@3900")
		if labelled := s.shown.Load().Labelled; labelled != 2 {
			t.Errorf("the sweeper counts %d labelled nodes, want the 2 of its own release and of none", labelled)
		}
	})
}

// An agent of another release that writes at the last moment keeps its labels.
func TestReleaseThatTakesOver(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		w.wrote("n01", Release{"ns", "a"})
		s := w.sweep()
		s.o.Release = Release{"ns", "a"}
		w.pass(s, time.Minute)
		delete(w.pods, "p-n01")
		w.pass(s, 4*time.Minute)
		nodes, pods := w.now()
		w.stale = func() ([]node, []pod) { return nodes, pods }
		w.wrote("n01", Release{"ns", "b"})
		w.pass(s, time.Hour)
		expect(t, w)
	})
}

func TestVanishedPod(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		delete(w.pods, "p-n01")
		w.pass(s, time.Hour)
		expect(t, w, "n01@360") // first seen without at 60 s
	})
}

// A pod tells of the time before the sweeper's start; where there is none, the
// sweeper's own clock begins at its start.
func TestRestart(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		w.pod("p-n01", "n01", false)
		delete(w.pods, "p-n02")
		time.Sleep(time.Hour)
		w.pass(w.sweep(), 50*time.Second)
		expect(t, w)
		w.pass(w.sweep(), 50*time.Second)
		expect(t, w)
		w.pass(w.sweep(), time.Hour)
		expect(t, w, "n01@3760", "n02@4000") // a minute, and five, after the last start
	})
}

func TestAgentThatIsBackInTime(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		for range 10 {
			w.pod("p-n01", "n01", false)
			w.pass(s, 4*time.Minute)
			w.pod("p-n01", "n01", true)
			w.pass(s, time.Minute)
		}
		expect(t, w)
	})
}

// A pod that is replaced again and again, never ready, is no agent.
func TestReplacedPods(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		delete(w.pods, "p-n01")
		for i := range 10 {
			uid := fmt.Sprintf("again-%d", i)
			w.pod(uid, "n01", false)
			w.pass(s, time.Minute)
			delete(w.pods, types.UID(uid))
		}
		expect(t, w, "n01@360")
	})
}

// While the API server is away nothing is tried, and a node counts anew when it
// is back: nobody could report in between.
func TestOutage(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		w.pass(s, 4*time.Minute)
		w.away = true
		w.pass(s, 30*time.Minute)
		if s.ready() == nil || s.healthy(time.Now()) != nil {
			t.Error("an outage must make it unready and leave it healthy")
		}
		w.away = false
		w.pass(s, 290*time.Second)
		expect(t, w)
		w.pass(s, time.Minute)
		expect(t, w, "n01@2400")
		if s.ready() != nil {
			t.Error(s.ready())
		}
	})
}

// A short silence, as of an API server that is replaced, changes nothing.
func TestShortOutage(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		w.pass(s, 2*time.Minute)
		w.away = true
		w.pass(s, 20*time.Second)
		w.away = false
		w.pass(s, 10*time.Minute)
		expect(t, w, "n01@360")
	})
}

// A process that was stopped for a while knows nothing of that time either.
func TestFrozen(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		time.Sleep(time.Hour)
		w.pass(s, 4*time.Minute)
		expect(t, w)
	})
}

func TestUnsynced(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(3)
		clear(w.pods)
		w.unsynced = true
		s := w.sweep()
		w.pass(s, time.Hour)
		expect(t, w)
		if s.ready() == nil {
			t.Error("it is ready though nothing is known")
		}
	})
}

// Watches that stand still show a pod that is long ready again.
func TestStaleWatches(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		w.pod("p-n01", "n01", false)
		s := w.sweep()
		nodes, pods := w.now()
		w.stale = func() ([]node, []pod) { return nodes, pods }
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", true)
		w.pass(s, time.Hour)
		expect(t, w)
		// It dies again, and still the watches show the first time.
		w.pod("p-n01", "n01", false)
		w.pass(s, time.Hour)
		expect(t, w)
		w.stale = nil
		w.pass(s, 2*time.Minute)
		expect(t, w, "n01@7260")
	})
}

// An agent that returns between the last look and the patch keeps its labels:
// the patch conflicts.
func TestConflict(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		w.before = func(n node) {
			w.before = nil
			w.label(n.Name)
			w.pod("p-n01", "n01", true)
		}
		w.pass(s, time.Hour)
		expect(t, w)
		if w.before != nil {
			t.Error("nothing was tried")
		}
	})
}

// Other writers to the Node only delay; refusals are tried again for ever.
func TestRetries(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		left := 3
		w.before = func(n node) {
			if left--; left >= 0 {
				have := w.nodes[n.Name]
				have.Version += "x"
				w.nodes[n.Name] = have
			}
		}
		w.pass(s, 10*time.Minute)
		if len(w.withdrawn) != 1 || left != -1 {
			t.Errorf("%v, %d conflicts left", w.withdrawn, left)
		}
	})
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		w.refuse = errors.New("the policy says no")
		tries := 0
		w.before = func(node) { tries++ }
		w.pass(s, 10*time.Hour)
		expect(t, w)
		if tries < 100 || tries > 300 {
			t.Errorf("%d tries in 10 hours", tries)
		}
		w.refuse = nil
		w.pass(s, 10*time.Minute)
		if len(w.withdrawn) != 1 {
			t.Errorf("removals: %v", w.withdrawn)
		}
	})
}

// The agent writes though its pod is not ready: what it says is fresh.
func TestAgentThatWrites(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		w.pod("p-n01", "n01", false)
		for range 60 {
			w.pass(s, time.Minute)
			w.label("n01")
		}
		expect(t, w)
	})
}

// Labels that come back without a ready pod of ours are left longer and longer:
// another release's agent writes them.
func TestLabelsThatReturn(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		delete(w.pods, "p-n01")
		for range 24 * 60 {
			if !w.nodes["n01"].says() {
				w.label("n01")
			}
			w.pass(s, time.Minute)
		}
		if n := len(w.withdrawn); n < 5 || n > 9 {
			t.Errorf("%d removals in a day: %v", n, w.withdrawn)
		}
		if r := w.reasons(); r[EventLabelsWithdrawn] != 1 || r[EventLabelsReturned] != len(w.withdrawn)-1 {
			t.Errorf("events: %v", r)
		}
		// Our own agent comes, and dies: that is told apart.
		w.label("n01")
		w.pod("new", "n01", true)
		w.pass(s, time.Minute)
		w.pod("new", "n01", false)
		before := len(w.withdrawn)
		w.pass(s, 6*time.Minute)
		if len(w.withdrawn) != before+1 {
			t.Error("a former life of the node made it wait")
		}
	})
}

// A Node object of the same name is another node.
func TestRecreatedNode(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(5)
		s := w.sweep()
		w.pass(s, time.Minute)
		delete(w.pods, "p-n01")
		w.pass(s, 4*time.Minute)
		delete(w.nodes, "n01")
		w.pass(s, 30*time.Second)
		w.label("n01")
		n := w.nodes["n01"]
		n.UID, n.Wrote = "other", time.Time{}
		w.nodes["n01"] = n
		w.pass(s, 4*time.Minute)
		expect(t, w)
		w.pass(s, 2*time.Minute)
		if len(w.withdrawn) != 1 {
			t.Errorf("removals: %v", w.withdrawn)
		}
	})
}

func TestRunEnds(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.fleet(2)
		s := w.sweep()
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
