package faults

import (
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"

	"github.com/stoker-project/stoker/test/cluster"
)

// walk is one mix of faults.
type walk struct {
	name  string
	kinds []kind
	// steps is how many CI takes.
	steps int
}

func walks() []walk {
	inner := slices.Concat(damages(), lists())
	return []walk{
		{"everything", slices.Concat(
			ordeal.Weighted(3, lives()), ordeal.Weighted(3, disks()), ordeal.Weighted(2, damages()), ordeal.Weighted(1, apis(inner)), ordeal.Weighted(1, hubs(inner)), ordeal.Weighted(2, lists()),
		), 90},
		// Large models go again and again, so that kills and power cuts land in
		// transfers.
		{"transfers", slices.Concat(
			ordeal.Weighted(4, lives()), ordeal.Weighted(4, disks()), ordeal.Weighted(1, hubs(losses())), ordeal.Weighted(6, losses()),
		), 60},
		{"words", slices.Concat(ordeal.Weighted(2, apis(inner)), ordeal.Weighted(2, lists()), ordeal.Weighted(1, lives())), 60},
	}
}

// losses make something large be pulled.
func losses() []kind {
	var blob ordeal.Deed
	for _, d := range ordeal.Deeds() {
		if d.Name == "the blob is deleted" {
			blob = d
		}
	}
	return []kind{
		{Weight: 2, Make: func(*rand.Rand) step {
			return step{Name: "the store is emptied", Run: func(w *world) { w.emptyStore() }}
		}},
		{Weight: 4, Make: func(r *rand.Rand) step {
			name, share := ordeal.OneOf(r, "large", "mid", "shared"), r.Float64()
			return step{Name: name + ": the largest blob is deleted", Run: func(w *world) { w.doDamage(blob, name, w.largest(name, share)) }}
		}},
		{Weight: 2, Make: func(*rand.Rand) step {
			return step{Name: "the Hub has a new commit of moving", Run: func(w *world) { w.publishMoving() }}
		}},
	}
}

// largest is the share by which victimOf finds a model's largest file.
func (w *world) largest(name string, otherwise float64) float64 {
	files := w.source.Files(w.commitOf(name))
	best, size := otherwise, int64(0)
	const n = 64
	for i := range n {
		share := float64(i) / n
		if f := files[w.victimOf(name, share).Path]; f.Size > size {
			best, size = share, f.Size
		}
	}
	return best
}

// TestWalk takes walks through faults. The seed decides about every step; what
// the machine makes of them in time, it does not.
func TestWalk(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	stop := interrupts(t)
	c := startCluster(t)
	for _, wk := range walks() {
		steps := wk.steps
		if *stepsFlag > 0 {
			steps = *stepsFlag
		}
		t.Run(strings.ReplaceAll(wk.name, " ", "-"), func(t *testing.T) { takeWalk(t, c, wk, seed, steps, stop) })
	}
}

// interrupts is closed when somebody wants the tests to end, so that they end in
// good order.
func interrupts(t *testing.T) <-chan struct{} {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	return ctx.Done()
}

// stretch is how many steps there are at most from one moment at which all must
// be well to the next.
const stretch = 12

// takeWalk goes so many steps, or until it is interrupted.
func takeWalk(t *testing.T, c *cluster.Cluster, wk walk, seed uint64, steps int, interrupted <-chan struct{}) {
	t.Helper()
	t.Logf("seed %d: go test ./faults -run 'TestWalk/%s$' -seed %d -steps %d", seed, wk.name, seed, steps)
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, c)
	defer func() {
		if w.failure.Load() != nil || t.Failed() {
			w.tell()
		}
	}()
	w.converge()
	began, checks := time.Now(), 0
	for i := 1; i <= steps; i++ {
		s := ordeal.Choose(r, wk.kinds)
		rest := ordeal.Within(r, 300*time.Millisecond)
		w.note("step %d of %d: %s", i, steps, s.Name)
		s.Run(w)
		w.pause(rest)
		w.checkPublished()
		w.checkDownloads()
		if r.IntN(stretch) == 0 || i%stretch == 0 || i == steps {
			w.note("all must be well")
			w.converge()
			checks++
		}
		if why := w.failure.Load(); why != nil {
			t.Fatalf("seed %d, step %d of %d (%s): %s", seed, i, steps, s.Name, *why)
		}
		select {
		case <-interrupted:
			t.Fatalf("seed %d: interrupted at step %d of %d", seed, i, steps)
		default:
		}
	}
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	t.Logf("%d steps in %s, all well %d times, the Node written %d times", steps, time.Since(began).Round(time.Second), checks, w.history.seen)
}
