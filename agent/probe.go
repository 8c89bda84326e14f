package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// errStuck is an observation whose call has not returned in time.
var errStuck = errors.New("no answer from")

// probe asks something that may hang (a disk, a driver, the API server) in a
// goroutine of its own, one at a time; the latest answer wins. The loop never
// waits for it.
//
// A call that has neither returned nor made progress (beat) within the timeout
// is stuck: its context has
// ended, but a system call on a dead volume cannot be interrupted. What it asks
// about is then unknown until the call returns, and it is the one goroutine
// that the agent may leave behind when it ends.
type probe[T any] struct {
	name string
	ask  func(ctx context.Context, beat func()) (T, error)
	wake func()
	wg   *sync.WaitGroup

	mu      sync.Mutex
	gen     int // number of the latest call started
	again   bool
	started time.Time // of the call that runs; zero if none does
	beaten  time.Time // when that call last made progress
	bound   time.Duration
	last    answer[T]
}

// answer is what a probe knows.
type answer[T any] struct {
	// Known is false before the first answer, after an error and while a call
	// is stuck. Value is then the zero value.
	Known bool
	Value T
	// Err says why it is not known; nil before the first answer.
	Err error
	// Gen is the number of the call that answered: higher is later.
	Gen int
	// Asked is when that call started.
	Asked time.Time
}

// answered says whether there was an answer at all, be it an error.
func (a answer[T]) answered() bool { return a.Known || a.Err != nil }

func newProbe[T any](name string, wake func(), wg *sync.WaitGroup, ask func(context.Context, func()) (T, error)) *probe[T] {
	return &probe[T]{name: name, ask: ask, wake: wake, wg: wg}
}

// next is the number that the next call will have: an answer with at least
// this number has seen everything that happened until now.
func (p *probe[T]) next() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gen + 1
}

// start asks, unless a call is under way; with fresh, a call that is under way
// is followed by another one.
func (p *probe[T]) start(ctx context.Context, timeout time.Duration, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started.IsZero() {
		p.again = p.again || fresh
		return
	}
	p.launch(ctx, timeout)
}

// launch needs the lock.
func (p *probe[T]) launch(ctx context.Context, timeout time.Duration) {
	p.gen++
	p.started, p.bound, p.again = time.Now(), timeout, false
	p.beaten = p.started
	gen, started := p.gen, p.started
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		callCtx, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(timeout, func() { cancel(fmt.Errorf("%w: %s within %s", errStuck, p.name, timeout)) })
		value, err := p.ask(callCtx, func() {
			timer.Reset(timeout)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.beaten = time.Now()
		})
		timer.Stop()
		if err != nil && callCtx.Err() != nil {
			err = context.Cause(callCtx)
		}
		cancel(nil)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.last = answer[T]{Known: err == nil, Err: err, Gen: gen, Asked: started}
		if err == nil {
			p.last.Value = value
		}
		p.started = time.Time{}
		if p.again && ctx.Err() == nil {
			p.launch(ctx, timeout)
		}
		p.wake()
	}()
}

// due says whether the last call started at least every ago, or never.
func (p *probe[T]) due(now time.Time, every time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started.IsZero() && (p.gen == 0 || now.Sub(p.last.Asked) >= every)
}

// stuck says for how long a call has been under way beyond its bound; zero if
// none is.
func (p *probe[T]) stuck(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Half a bound of patience lets a call that honours its context return its
	// own error, which says more than "stuck".
	if p.started.IsZero() || now.Sub(p.beaten) < p.bound+p.bound/2 {
		return 0
	}
	return now.Sub(p.beaten)
}

// latest is what the probe knows now.
func (p *probe[T]) latest(now time.Time) answer[T] {
	stuck := p.stuck(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if stuck > 0 {
		// The text stays the same while it lasts: it stands in the annotation.
		return answer[T]{Gen: p.last.Gen, Asked: p.last.Asked, Err: fmt.Errorf("%w: %s within %s", errStuck, p.name, p.bound)}
	}
	return p.last
}
