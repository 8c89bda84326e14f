//go:build e2e && linux

package nfs_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/ordeal"
)

type (
	step = ordeal.Step[*walk]
	kind = ordeal.Kind[*walk]
)

const (
	// walkRate is how many bytes a second the Hub sends, so that most faults land in a transfer.
	walkRate = 6 << 20
	// stretch is how many steps there are at most from one moment at which all must be well to the next.
	stretch = 5
)

// walk is a fleet through which a seed sends faults.
type walk struct {
	*fleet
	// commits are those that an entry may be pinned to.
	commits map[string][]string
	pushed  uint64
}

// TestWalk takes one walk through faults. The seed decides about every step; when it meets what, it does not.
func TestWalk(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	again := fmt.Sprintf("go -C test test -tags e2e -timeout %dm ./nfs -run TestWalk -seed %d -steps %d -mount %s -delegations=%t",
		10+*stepsFlag, seed, *stepsFlag, *mountFlag, *leasesFlag)
	t.Logf("seed %d: %s", seed, again)
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := &walk{fleet: newFleet(t, 3)}
	w.source.Hub.SetBytesPerSecond(walkRate)
	w.pushModels()
	w.writeList()
	w.converge()
	r := rand.New(rand.NewPCG(seed, 0))
	began, checks, slowest, mix := time.Now(), 0, time.Duration(0), kinds()
	for i := 1; i <= *stepsFlag; i++ {
		s := ordeal.Choose(r, mix)
		rest := ordeal.Within(r, time.Second)
		w.note("step %d of %d: %s", i, *stepsFlag, s.Name)
		t.Logf("%7.1fs step %d: %s", time.Since(began).Seconds(), i, s.Name)
		s.Run(w)
		w.pass(rest)
		if r.IntN(stretch) == 0 || i%stretch == 0 || i == *stepsFlag {
			w.note("all must be well")
			took := w.converge()
			slowest = max(slowest, took)
			checks++
			if took > 30*time.Second {
				t.Logf("all well only after %s:\n%s", took.Round(time.Second), strings.Join(tail(w.events, 30), "\n"))
			}
		}
		if why := w.failure.Load(); why != nil {
			t.Fatalf("seed %d, step %d of %d (%s): %s\nto take it again: %s", seed, i, *stepsFlag, s.Name, *why, again)
		}
		if ctx.Err() != nil {
			t.Fatalf("seed %d: interrupted at step %d of %d", seed, i, *stepsFlag)
		}
	}
	t.Logf("%d steps in %s, all well %d times, after %s at most", *stepsFlag, time.Since(began).Round(time.Second), checks, slowest.Round(100*time.Millisecond))
}

// pushModels fills the Hub and makes the list: a small model, one with two commits of the same weights, a large one, and
// one that moves.
func (w *walk) pushModels() {
	tiny := w.push("org/tiny", 1, 1<<20, 1)
	mid := w.push("org/mid", 2, 8<<20, 2)
	tree := modelTree(w.T, 2, 8<<20, 2)
	tree["generation_config.json"] = fetchertest.Bytes([]byte(`{"later": true}`))
	next := w.source.Push(w.T, "org/mid", tree)
	large := w.push("org/large", 3, 20<<20, 3)
	w.push("org/moving", 100, 4<<20, 1)
	w.commits = map[string][]string{"mid": {mid, next}}
	w.entries = map[string]entry{
		"tiny":   {repo: "org/tiny", commit: tiny, on: true},
		"mid":    {repo: "org/mid", commit: mid, on: true},
		"large":  {repo: "org/large", commit: large, on: true},
		"moving": {repo: "org/moving", on: true},
	}
}

// writerNow is whose agent holds the Lease; the first if none does.
func (w *walk) writerNow() *member {
	if m := w.holder(); m != nil {
		return m
	}
	return w.members[0]
}

// converge waits until every Node promises what the list has, every machine reads that, and nothing else is there. From
// then on nothing is allowed any more.
func (w *walk) converge() time.Duration {
	began := time.Now()
	const limit = 3 * time.Minute
	for _, m := range w.members {
		m.start()
	}
	var since time.Time
	reported := ""
	for {
		if !w.tick(context.Background(), 200*time.Millisecond) {
			return 0
		}
		wrong := w.wrong()
		if wrong != reported {
			w.note("%s", cmp.Or(wrong, "nothing is wrong"))
			reported = wrong
		}
		switch {
		case wrong == "" && since.IsZero():
			since = time.Now()
		case wrong != "":
			since = time.Time{}
			if time.Since(began) > limit {
				w.fail("%s after the last fault %s", limit, wrong)
				return 0
			}
		case w.allCleanSince(since):
			w.clearAllowances()
			return time.Since(began)
		}
	}
}

// allCleanSince reports whether everybody has looked since then and found nothing wrong.
func (w *walk) allCleanSince(t time.Time) bool {
	for _, m := range w.members {
		if !m.view.cleanSince(t) {
			return false
		}
	}
	return w.volume.cleanSince(t)
}

// wrong describes what is not as the list has it; empty: nothing.
func (w *walk) wrong() string {
	want := w.wanted()
	for _, m := range w.members {
		promised, err := m.promises(context.Background())
		if err != nil {
			w.fail("read a Node: %v", err)
			return ""
		}
		if !maps.Equal(promised, want) {
			return fmt.Sprintf("%s promises %v, should promise %v", m.node, promised, want)
		}
	}
	if n := w.violated(); n > 0 {
		return fmt.Sprintf("%d labels are wrong", n)
	}
	c, err := w.volume.read(context.Background(), false)
	if err != nil {
		return err.Error()
	}
	for key := range c.manifests {
		name, commit, _ := strings.Cut(key, "/")
		if !w.entries[name].on || commit != w.commitOf(name) {
			return "the volume still has " + key
		}
	}
	return ""
}
