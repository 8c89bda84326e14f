package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPromisesAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPromises()
		done := make(chan error, 1)
		go func() { done <- p.gone(t.Context(), []string{"a", "b"}) }()
		for _, step := range []struct {
			known  bool
			models map[string]bool
		}{
			{true, map[string]bool{"a": true, "b": true}},
			{true, map[string]bool{"b": true}},
			{false, map[string]bool{}}, // another Node object: nothing is confirmed
		} {
			p.set(step.known, step.models)
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%+v: went on: %v", step, err)
			default:
			}
		}
		p.set(true, map[string]bool{"c": true})
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.gone(ctx, []string{"c"}); !errors.Is(err, context.DeadlineExceeded) {
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
