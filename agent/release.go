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
	changed chan struct{} // closed when something was set
}

func newPromises() *promises { return &promises{changed: make(chan struct{})} }

// set takes what holds now; not known means that any label may stand.
func (p *promises) set(known bool, models map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known, p.models = known, models
	close(p.changed)
	p.changed = make(chan struct{})
}

// gone waits until the API server has confirmed that no label promises any of
// the models.
func (p *promises) gone(ctx context.Context, names []string) error {
	for {
		p.mu.Lock()
		free := p.known && !slices.ContainsFunc(names, func(name string) bool { return p.models[name] })
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
	a.lookAgain.Store(true)
	poke(a.wakeup)()
	return a.promised.gone(ctx, names)
}
