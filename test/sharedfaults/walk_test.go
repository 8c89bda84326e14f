package sharedfaults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/ordeal"
)

// What CI walks: as many steps of one seed as of a new one.
const (
	fixedSeed = 31
	ciSteps   = 6
)

// kinds is the mix of what happens.
func kinds() []kind {
	inner := slices.Concat(damages(), lists())
	return slices.Concat(
		ordeal.Weighted(4, lives()), ordeal.Weighted(3, mounts(slices.Concat(inner, lives()))), ordeal.Weighted(2, damages()),
		ordeal.Weighted(2, apis(slices.Concat(inner, lives()))), ordeal.Weighted(1, hubs(inner)), ordeal.Weighted(3, lists()),
		ordeal.Weighted(2, losses()),
	)
}

// losses make something large be pulled, so that what happens next lands in a
// transfer.
func losses() []kind {
	return []kind{
		{Weight: 2, Make: func(r *rand.Rand) step {
			name := ordeal.OneOf(r, "large", "mid")
			return step{Name: name + ": its blobs are deleted", Run: func(w *world) {
				files := w.source.Files(w.commitOf(name))
				for _, f := range files {
					w.source.Lost(f.SHA256)
				}
				w.breakVolume(w.sharingAny(name), func() error {
					for _, f := range files {
						if err := os.Remove(w.volume + "/blobs/sha256/" + f.SHA256); err != nil && !os.IsNotExist(err) {
							return err
						}
					}
					return nil
				})
			}}
		}},
		{Weight: 1, Make: func(*rand.Rand) step {
			return step{Name: "the volume is emptied", Run: func(w *world) { w.emptyVolume() }}
		}},
	}
}

// sharingAny are the models that share any content with one.
func (w *world) sharingAny(name string) []string {
	hit := []string{name}
	for _, f := range w.source.Files(w.commitOf(name)) {
		hit = append(hit, w.sharing(f.SHA256)...)
	}
	return hit
}

// TestWalk takes walks through faults. The seed decides about every step; what the
// machine makes of them in time, it does not.
func TestWalk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what faults do to agents that share a volume is not tested here")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("SKIPPED, no FUSE here: what faults do to agents that share a volume is not tested: ", err)
	}
	seeds := []uint64{fixedSeed, rand.Uint64() >> 1}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	} else if *stepsFlag > 0 {
		seeds = seeds[1:]
	}
	steps := ciSteps
	if *stepsFlag > 0 {
		steps = *stepsFlag
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := startCluster(t)
	for i, seed := range seeds {
		t.Run(fmt.Sprint(i), func(t *testing.T) { takeWalk(t, c, seed, steps, ctx.Done()) }) //nolint:contextcheck // it ends with the test
	}
}

// stretch is how many steps there are at most from one moment at which all must be
// well to the next.
const stretch = 8

// takeWalk goes so many steps, or until it is interrupted.
func takeWalk(t *testing.T, c *cluster.Cluster, seed uint64, steps int, interrupted <-chan struct{}) {
	t.Helper()
	again := fmt.Sprintf("go -C test test ./sharedfaults -run TestWalk -seed %d -steps %d -agents %d", seed, steps, *agentsFlag)
	t.Logf("seed %d: %s", seed, again)
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, c, *agentsFlag)
	defer func() {
		if w.failure.Load() != nil || t.Failed() {
			w.tell()
		}
	}()
	w.converge()
	began, checks, slowest, mix := time.Now(), 0, time.Duration(0), kinds()
	for i := 1; i <= steps; i++ {
		s := ordeal.Choose(r, mix)
		rest := ordeal.Within(r, 500*time.Millisecond)
		w.note("step %d of %d: %s", i, steps, s.Name)
		s.Run(w)
		w.pause(rest)
		w.checkPublished()
		w.checkDownloads()
		if r.IntN(stretch) == 0 || i%stretch == 0 || i == steps {
			w.note("all must be well")
			slowest = max(slowest, w.converge())
			checks++
		}
		if why := w.failure.Load(); why != nil {
			t.Fatalf("seed %d, step %d of %d (%s): %s\nto take it again: %s", seed, i, steps, s.Name, *why, again)
		}
		select {
		case <-interrupted:
			t.Fatalf("seed %d: interrupted at step %d of %d", seed, i, steps)
		default:
		}
	}
	w.terms.mu.Lock()
	defer w.terms.mu.Unlock()
	t.Logf("%d steps in %s, all well %d times, after %s at most; %d changes through the fence, %d manifests published",
		steps, time.Since(began).Round(time.Second), checks, slowest.Round(100*time.Millisecond), w.terms.changes, w.terms.published)
}
