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
// that the agent may leave behind when it ends. Only time counts in which this
// process ran: one that was paused in the middle of a call has not waited.
type probe[T any] struct {
	name string
	ask  func(ctx context.Context, beat func()) (T, error)
	wake func()
	wg   *sync.WaitGroup

	mu      sync.Mutex
	gen     int // number of the latest call started
	again   bool
	started time.Time     // of the call that runs; zero if none does
	waited  time.Duration // for it, while this process ran, since it last made progress
	counted time.Time     // until when
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
	p.waited, p.counted = 0, p.started
	gen, started := p.gen, p.started
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		callCtx, cancel := context.WithCancelCause(ctx)
		stop := p.count(gen, timeout, func() { cancel(fmt.Errorf("%w: %s within %s", errStuck, p.name, timeout)) })
		value, err := p.ask(callCtx, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.waited, p.counted = 0, time.Now()
		})
		stop()
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

// count counts for how long a call has made no progress, in steps: after a pause of
// this process only the one counts that was due. It calls late when that is as long as
// timeout.
func (p *probe[T]) count(gen int, timeout time.Duration, late func()) (stop func()) {
	const steps = 8
	step := max(timeout/steps, time.Millisecond)
	var timer *time.Timer
	ended := false
	p.mu.Lock()
	defer p.mu.Unlock()
	timer = time.AfterFunc(step, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if ended || gen != p.gen {
			return
		}
		now := time.Now()
		p.waited += min(now.Sub(p.counted), step)
		p.counted = now
		if p.waited >= timeout {
			late()
		}
		timer.Reset(step)
	})
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		ended = true
		timer.Stop()
	}
}

// due says whether the last call started at least every ago, or never.
func (p *probe[T]) due(now time.Time, every time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started.IsZero() && (p.gen == 0 || now.Sub(p.last.Asked) >= every)
}

// stuck says whether a call has been under way beyond its bound. It needs the lock.
func (p *probe[T]) stuck() bool {
	// Half a bound of patience lets a call that honours its context return its
	// own error, which says more than "stuck".
	return !p.started.IsZero() && p.waited >= p.bound+p.bound/2
}

// latest is what the probe knows now.
func (p *probe[T]) latest() answer[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck() {
		// The text stays the same while it lasts: it stands in the annotation.
		return answer[T]{Gen: p.last.Gen, Asked: p.last.Asked, Err: fmt.Errorf("%w: %s within %s", errStuck, p.name, p.bound)}
	}
	return p.last
}
