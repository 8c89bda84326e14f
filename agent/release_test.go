package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPromisesAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPromises()
		done := make(chan error, 1)
		go func() { done <- p.gone(t.Context(), []string{"a", "b"}, 2) }()
		for _, step := range []struct {
			known  bool
			models map[string]bool
			gen    int
		}{
			{true, map[string]bool{"a": true, "b": true}, 2},
			{true, map[string]bool{"b": true}, 2},
			{false, map[string]bool{}, 2}, // another Node object: nothing is confirmed
			{true, map[string]bool{}, 1},  // it may be about to promise one
		} {
			p.set(step.known, step.models, step.gen)
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%+v: went on: %v", step, err)
			default:
			}
		}
		p.set(true, map[string]bool{"c": true}, 3)
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.gone(ctx, []string{"c"}, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a label stands, and the wait ended with %v", err)
		}
	})
}

// A pull that finds shared content damaged goes on when the labels of all who
// share it are gone, and not before.
func TestLoopReleasesWhatOthersPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Fatalf("the label is %q", got)
		}
		b.cluster.set(func() { b.cluster.away = errors.New("the API server is away") })
		b.store.set(func() { b.store.bad["a"] = fmt.Errorf("model.safetensors is missing: %w", store.ErrCorrupt) })
		done := make(chan error, 1)
		go func() { done <- b.store.ask(t.Context(), []string{"a"}) }()
		after(time.Minute)
		select {
		case err := <-done:
			t.Fatalf("went on while the label stands: %v", err)
		default:
		}
		b.cluster.set(func() { b.cluster.away = nil })
		after(30 * time.Second)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A label that is about to be written counts as well: the loop has to have seen
// the damage before anything goes.
func TestLoopReleasesNothingThatItIsAboutToPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+strings.Replace(fast, "labelWrites: 1s, verify: 2s", "labelWrites: 20s, verify: 30s", 1))
		b.start()
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "" || b.store.status("a").State != string(StateWarm) {
			t.Fatalf("the label is %q and its state %+v, want it about to be written", got, b.store.status("a"))
		}
		b.puller.set(func() { b.puller.takes = time.Hour })
		b.store.set(func() { b.store.bad["a"] = fmt.Errorf("model.safetensors is missing: %w", store.ErrCorrupt) })
		before := b.store.checks
		if err := b.store.ask(t.Context(), []string{"a"}); err != nil {
			t.Error(err)
		}
		if b.store.checks == before {
			t.Error("the loop still goes by what the store was before the damage")
		}
		for range 40 {
			if got := b.cluster.label(WarmPrefix + "a"); got != "" {
				t.Fatalf("the label is %q after its files were let go", got)
			}
			after(time.Second)
		}
	})
}
