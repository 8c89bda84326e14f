// Package elect decides which of several processes leads, by a Lease of the API
// server.
//
// It is what client-go's leaderelection does, for one kind of lock, over a client
// that knows no more API groups than it needs. Whether somebody else still leads
// is judged by this process's own monotonic clock: from when the Lease was last
// seen to change. Clocks of different machines are never compared. It is no fence:
// a process that was paused finds out late that it leads no more, so what leads
// must be held off by something else.
package elect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrConflict is a Lease that somebody else has written since it was read.
var ErrConflict = errors.New("the lease was changed meanwhile")

// ErrNotFound is a Lease that there is not.
var ErrNotFound = errors.New("there is no such lease")

// Record is what a Lease says.
type Record struct {
	// Holder is who leads; empty if nobody does.
	Holder string
	// Duration is how long the holder may go without renewing.
	Duration time.Duration
	// Renewed is the holder's clock at its last renewal: compared with itself only.
	Renewed time.Time
	// Acquired is the holder's clock when it began to lead.
	Acquired time.Time
	// Transitions is how often the holder has changed.
	Transitions int32
	// Version is the object's, for writing it only if it is still the same.
	Version string
}

// Lease is where the record is kept.
type Lease interface {
	// Get reads the record; ErrNotFound.
	Get(ctx context.Context) (Record, error)
	// Create makes the Lease; ErrConflict if it is there.
	Create(ctx context.Context, r Record) (Record, error)
	// Update replaces the record if it is still of r.Version; else ErrConflict.
	Update(ctx context.Context, r Record) (Record, error)
}

// Options of an Elector. All are required but for Ready.
type Options struct {
	Lease Lease
	// Identity is who this process is, as no other one is.
	Identity string
	// Duration is how long a Lease holds without being renewed. Renewal is tried
	// every sixth of it, and leading ends when none has succeeded for two thirds.
	Duration time.Duration
	// Ready says whether this process may begin to lead now; nil: always.
	Ready func() bool
	// Changed is called, and must not wait, when it begins or ends to lead, or when
	// another holder is seen.
	Changed func()
	Logger  *slog.Logger
}

// Elector takes part in an election. Make one with [New].
type Elector struct {
	o Options

	mu     sync.Mutex
	holder string
	// leading is this process's time of leading; nil if it does not lead.
	leading context.Context //nolint:containedctx // a time of leading is a context
	end     context.CancelCauseFunc
	until   time.Time // leading ends then unless it is renewed

	// Only Run's goroutine touches these.
	seen   Record
	seenAt time.Time // when it was first seen so
	told   string
	wg     sync.WaitGroup
}

// ErrLost is why a time of leading ended.
var ErrLost = errors.New("the lease was lost")

// New makes an elector; it sends nothing.
func New(o Options) *Elector {
	if o.Ready == nil {
		o.Ready = func() bool { return true }
	}
	return &Elector{o: o}
}

// Leading returns the context of this process's time of leading, which ends with
// it; ok is false if it does not lead. It is judged anew at each call, so that who
// was paused does not believe that it still leads.
func (e *Elector) Leading() (ctx context.Context, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leading != nil && !time.Now().Before(e.until) {
		e.lose()
	}
	return e.leading, e.leading != nil
}

// Holder is who leads, as far as is known; empty: nobody, or not known.
func (e *Elector) Holder() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holder
}

// lose needs the lock.
func (e *Elector) lose() {
	e.end(ErrLost)
	e.leading, e.end = nil, nil
}

// Run takes part until ctx ends. The Lease stays: see Release.
func (e *Elector) Run(ctx context.Context) {
	defer e.wg.Wait()
	retry := e.o.Duration / 6
	for ctx.Err() == nil {
		e.round(ctx)
		// Spread, so that a fleet does not ask all at once.
		wait := retry - time.Duration(rand.Float64()*0.2*float64(retry))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round looks at the Lease once, and takes or renews it if it may.
func (e *Elector) round(ctx context.Context) {
	asked := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, e.o.Duration/6)
	defer cancel()
	err := e.try(callCtx, ctx, asked)
	if _, still := e.Leading(); err != nil && ctx.Err() == nil {
		if text := err.Error(); text != e.told {
			e.told = text
			e.o.Logger.Warn("take part in the election of the store's writer", "leading", still, "error", text)
		}
		return
	}
	e.told = ""
}

func (e *Elector) try(ctx, run context.Context, asked time.Time) error {
	_, leads := e.Leading()
	r, err := e.o.Lease.Get(ctx)
	if errors.Is(err, ErrNotFound) {
		if !e.o.Ready() {
			return nil
		}
		r, err = e.o.Lease.Create(ctx, e.mine(Record{}, asked))
		return e.took(run, r, err, asked)
	}
	if err != nil {
		return fmt.Errorf("read the lease: %w", err)
	}
	e.see(r)
	switch {
	case leads && r.Holder == e.o.Identity:
		r, err = e.o.Lease.Update(ctx, e.mine(r, asked))
		return e.took(run, r, err, asked)
	case leads:
		e.mu.Lock()
		if e.leading != nil {
			e.lose()
		}
		e.mu.Unlock()
		e.o.Changed()
		return nil
	case r.Holder != "" && time.Since(e.seenAt) < r.Duration:
		return nil
	case !e.o.Ready():
		return nil
	}
	r, err = e.o.Lease.Update(ctx, e.mine(r, asked))
	return e.took(run, r, err, asked)
}

// see remembers since when the Lease has been as it is.
func (e *Elector) see(r Record) {
	if r.Holder != e.seen.Holder || !r.Renewed.Equal(e.seen.Renewed) || r.Transitions != e.seen.Transitions || e.seenAt.IsZero() {
		e.seen, e.seenAt = r, time.Now()
	}
	e.mu.Lock()
	changed := e.holder != r.Holder
	e.holder = r.Holder
	e.mu.Unlock()
	if changed {
		e.o.Changed()
	}
}

// mine is the record by which this process leads from now on.
func (e *Elector) mine(r Record, now time.Time) Record {
	if r.Holder != e.o.Identity {
		if r.Holder != "" || r.Transitions > 0 || !r.Acquired.IsZero() {
			r.Transitions++
		}
		r.Holder, r.Acquired = e.o.Identity, now
	}
	r.Duration, r.Renewed = e.o.Duration, now
	return r
}

// took takes the answer to a write. The time for which it leads counts from before
// it was asked for: the API server's may have come at any moment since.
func (e *Elector) took(run context.Context, r Record, err error, asked time.Time) error { //nolint:contextcheck // leading outlasts the call
	if errors.Is(err, ErrConflict) {
		return nil // the next look tells who it was
	}
	if err != nil {
		return fmt.Errorf("write the lease: %w", err)
	}
	e.see(r)
	e.mu.Lock()
	e.until = asked.Add(e.o.Duration * 2 / 3)
	began := e.leading == nil && time.Now().Before(e.until)
	if began {
		e.leading, e.end = context.WithCancelCause(run)
		leading := e.leading
		e.wg.Go(func() { e.watch(leading) })
	}
	e.mu.Unlock()
	if began {
		e.o.Logger.Info("lead", "identity", e.o.Identity, "transitions", r.Transitions)
		e.o.Changed()
	}
	return nil
}

// watch ends a time of leading when it was not renewed, whatever Run waits for.
func (e *Elector) watch(leading context.Context) {
	for {
		e.mu.Lock()
		wait := time.Until(e.until)
		e.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-leading.Done():
			timer.Stop()
			e.o.Logger.Warn("lead no more", "identity", e.o.Identity, "reason", context.Cause(leading))
			e.o.Changed()
			return
		case <-timer.C:
			e.Leading()
		}
	}
}

// Release gives the Lease away, so that another one need not wait for its end. Call
// it when Run has returned and what was done while leading has ended.
func (e *Elector) Release(ctx context.Context) error {
	r, err := e.o.Lease.Get(ctx)
	if err != nil || r.Holder != e.o.Identity {
		return err
	}
	r.Holder, r.Duration = "", time.Second
	if _, err = e.o.Lease.Update(ctx, r); err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("give the lease away: %w", err)
	}
	return nil
}
