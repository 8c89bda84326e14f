package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// Remover takes models out of the store.
type Remover interface {
	// Remove takes a model out; store.ErrNotFound if nothing of it is here.
	Remove(ctx context.Context, name string) error
	// RemoveRevision takes out a revision that is not the current one.
	RemoveRevision(ctx context.Context, name, revision string) error
	// GC removes what nothing refers to and nobody continued for olderThan.
	GC(ctx context.Context, olderThan time.Duration) (store.GCResult, error)
}

// keepPartials is how long a transfer that nobody continues is kept.
const keepPartials = 24 * time.Hour

// removal is how a removal ended.
type removal struct {
	superseded
	Why   string
	Freed int64 // bytes
	Err   error
}

// removals takes models out of the store, one goroutine at a time: it is disk
// work that may hang. The plan has made sure that no label promises them.
type removals struct {
	store Remover
	wake  func()
	wg    *sync.WaitGroup

	mu      sync.Mutex
	running map[string]bool
	done    []removal
}

func newRemovals(s Remover, wake func(), wg *sync.WaitGroup) *removals {
	return &removals{store: s, wake: wake, wg: wg, running: map[string]bool{}}
}

// start removes one model, or one superseded revision of it. Only one removal
// runs at a time; what does not get its turn is planned again.
func (r *removals) start(ctx context.Context, what superseded, why string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.running) > 0 {
		return false
	}
	// A superseded revision does not take the model's own state away.
	r.running[what.Name] = what.Revision == ""
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		out := removal{superseded: what, Why: why}
		if what.Revision != "" {
			out.Err = r.store.RemoveRevision(ctx, what.Name, what.Revision)
		} else {
			out.Err = r.store.Remove(ctx, what.Name)
		}
		if errors.Is(out.Err, store.ErrNotFound) {
			out.Err = nil // that is what was wanted
		}
		if out.Err == nil {
			var res store.GCResult
			res, out.Err = r.store.GC(ctx, keepPartials)
			out.Freed = res.RemovedBytes
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, what.Name)
		r.done = append(r.done, out)
		r.wake()
	}()
	return true
}

// any says whether anything is being removed.
func (r *removals) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.running) > 0
}

// collect returns the models that are being removed as a whole, and what ended
// since the last call. Both at once: what ends in between is in one of them.
func (r *removals) collect() (removing map[string]bool, done []removal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	removing = map[string]bool{}
	for name, whole := range r.running {
		if whole {
			removing[name] = true
		}
	}
	done, r.done = r.done, nil
	return removing, done
}
