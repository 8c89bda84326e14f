package agent

import (
	"context"
	"slices"
	"sync"
)

// promises is what labels on the Node promise, as far as the loop knows, for
// goroutines that must wait until one is gone.
type promises struct {
	mu      sync.Mutex
	known   bool
	models  map[string]bool
	gen     int           // the look at the store that the loop goes by
	changed chan struct{} // closed when something was set
}

func newPromises() *promises { return &promises{changed: make(chan struct{})} }

// set takes what holds now; not known means that any label may stand. What is
// written from now on goes by the look at the store with number gen, or a later one.
func (p *promises) set(known bool, models map[string]bool, gen int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known, p.models, p.gen = known, models, gen
	close(p.changed)
	p.changed = make(chan struct{})
}

// gone waits until the API server has confirmed that no label promises any of
// the models, and the loop goes by the look at the store with number gen: before
// that, it may be about to promise one.
func (p *promises) gone(ctx context.Context, names []string, gen int) error {
	for {
		p.mu.Lock()
		free := p.known && p.gen >= gen && !slices.ContainsFunc(names, func(name string) bool { return p.models[name] })
		changed := p.changed
		p.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// release is asked before models lose files because content was found wrong. A
// pull may find it for one model while labels promise others that share it: those
// labels go first. A look at the store tells the loop to take them away.
func (a *Agent) release(ctx context.Context, names []string) error {
	a.logger.Warn("wait for labels to go before damaged files do", "models", names)
	gen := a.disk.next()
	a.lookAgain.Store(true)
	poke(a.wakeup)()
	return a.promised.gone(ctx, names, gen)
}
