package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Puller brings models into the store; *fetcher.Fetcher is one.
type Puller interface {
	// Pull is idempotent: what is there and right is not downloaded again.
	Pull(ctx context.Context, req fetcher.Request) (fetcher.Result, error)
	// Resolve looks up which revision a source means now.
	Resolve(ctx context.Context, req fetcher.Request) (string, error)
}

// outcome is how an attempt ended.
type outcome struct {
	Model    Model
	Revision string
	// Pulled is false for a lookup that found nothing new.
	Pulled   bool
	Result   fetcher.Result
	Duration time.Duration
	Err      error
	// Canceled says that the agent itself ended it.
	Canceled bool
}

// pulls runs pulls, one goroutine each, and keeps how far they are. What ended
// waits in done until the loop drains it: nothing is an event that can be lost.
type pulls struct {
	puller    Puller
	admission *Admission
	request   func(Model) fetcher.Request
	wake      func()
	wg        *sync.WaitGroup

	mu      sync.Mutex
	running map[string]*running
	done    []outcome
}

type running struct {
	cancel   context.CancelFunc
	canceled bool
	state    pulling
	reserved *reservation // nil before a pull begins
	// for the rate
	at   time.Time
	from int64
}

func newPulls(p Puller, a *Admission, request func(Model) fetcher.Request, wake func(), wg *sync.WaitGroup) *pulls {
	return &pulls{puller: p, admission: a, request: request, wake: wake, wg: wg, running: map[string]*running{}}
}

// start begins a pull, or a lookup that becomes one if the revision is not
// have. A model that is being worked on is left alone.
func (p *pulls) start(ctx context.Context, o order, have string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := o.Model.Name
	if _, runs := p.running[name]; runs {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	run := &running{cancel: cancel, state: pulling{Transfer: o.Model.transfer(), Lookup: o.Lookup, Phase: fetcher.PhaseListing}}
	p.running[name] = run
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		defer cancel()
		out := p.work(ctx, o, have, run)
		p.mu.Lock()
		defer p.mu.Unlock()
		out.Canceled = run.canceled || (out.Err != nil && ctx.Err() != nil)
		delete(p.running, name)
		p.done = append(p.done, out)
		p.wake()
	}()
}

func (p *pulls) work(ctx context.Context, o order, have string, run *running) outcome {
	start := time.Now()
	out := outcome{Model: o.Model}
	req := p.request(o.Model)
	req.Cache = o.Cache
	if o.Lookup {
		out.Revision, out.Err = p.puller.Resolve(ctx, req)
		if out.Err != nil || out.Revision == have {
			return out
		}
		p.mu.Lock()
		run.state.Lookup = false
		p.mu.Unlock()
		p.wake()
	}
	out.Pulled = true
	ctx, reserved, end := p.admission.begin(ctx)
	defer end()
	p.mu.Lock()
	run.reserved = reserved
	p.mu.Unlock()
	req.Progress = func(pr fetcher.Progress) {
		reserved.progress(pr.BytesDone)
		p.progress(run, pr)
	}
	out.Result, out.Err = p.puller.Pull(ctx, req)
	out.Revision, out.Duration = out.Result.Revision, time.Since(start)
	return out
}

// rateWindow is over how long a rate is taken.
const rateWindow = 5 * time.Second

func (p *pulls) progress(run *running, pr fetcher.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	s := &run.state
	phaseChanged := s.Phase != pr.Phase
	s.Phase, s.Done, s.Total = pr.Phase, pr.BytesDone, pr.BytesTotal
	s.Failing, s.Hint = "", ""
	if pr.Failing != nil {
		f, _ := failureOf(pr.Failing)
		s.Failing, s.Hint = f.Reason, f.Hint
	}
	switch {
	case phaseChanged || run.at.IsZero() || pr.BytesDone < run.from:
		run.at, run.from, s.Rate = now, pr.BytesDone, 0
	case now.Sub(run.at) >= rateWindow || (s.Rate == 0 && now.Sub(run.at) >= time.Second):
		s.Rate = int64(float64(pr.BytesDone-run.from) / now.Sub(run.at).Seconds())
		if now.Sub(run.at) >= rateWindow {
			run.at, run.from = now, pr.BytesDone
		}
	}
	if phaseChanged {
		p.wake()
	}
}

// cancel ends a pull; its outcome comes as any other's.
func (p *pulls) cancel(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if run, ok := p.running[name]; ok {
		run.canceled = true
		run.cancel()
	}
}

// any says whether anything is being pulled or looked up.
func (p *pulls) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.running) > 0
}

// cancelAll ends every pull.
func (p *pulls) cancelAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, run := range p.running {
		run.canceled = true
		run.cancel()
	}
}

// taking is what running pulls that were admitted will still take, in bytes.
func (p *pulls) taking() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int64{}
	for name, run := range p.running {
		if run.reserved == nil {
			continue
		}
		if ok, _ := run.reserved.admitted(); ok {
			out[name] = run.reserved.outstanding()
		}
	}
	return out
}

// collect returns how far each running pull is, and what ended since the last
// call. Both at once: what ends in between is in one of them.
func (p *pulls) collect() (now map[string]pulling, done []outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = make(map[string]pulling, len(p.running))
	for name, run := range p.running {
		state := run.state
		if run.reserved != nil {
			state.Admitted, state.Reserved = run.reserved.admitted()
		}
		now[name] = state
	}
	done, p.done = p.done, nil
	return now, done
}

// maxRetryAfter bounds what a source may ask for: a header with a slip in it must not
// stop a node for a day.
const maxRetryAfter = time.Hour

// failureOf says what a failed attempt means for the model, and how long its
// source asked to be left alone.
func failureOf(err error) (f *failure, retryAfter time.Duration) {
	f = &failure{State: StateFailed, Hint: redact(fetcher.Hint(err))}
	// An error's text ends with its hint, which has a place of its own here.
	f.Reason = lasting(strings.TrimSuffix(errText(err), "; "+f.Hint))
	var fe *fetcher.Error
	if errors.As(err, &fe) {
		retryAfter = min(fe.RetryAfter, maxRetryAfter)
	}
	quota := fetcher.QuotaOf(err)
	switch {
	case quota.Host != "":
		f.State, f.Reason, f.Hint = StateQueued, quotaReason(quota), strings.TrimPrefix(f.Hint+"; "+lessQuota, "; ")
	case errors.Is(err, fetcher.ErrNoSpace):
		f.State, f.Code = StateSkipped, store.CodeNoRoom
		f.Reason = "no room: " + f.Reason
		if f.Hint == "" { // the disk refused what the admission had not counted
			f.Hint = "free some space on the store's disk"
		}
		var room *NoRoom
		if errors.As(err, &room) {
			f.NoRoom = room
			f.Reason = "no room: " + room.Error()
			if room.Busy {
				f.Code = "" // there will be, or it will turn out that there is not
			}
		}
	case errors.Is(err, fetcher.ErrUnsupported):
		f.State, f.Code = StateSkipped, store.CodeRefused
		f.Hint = "use another source, or a stoker that has a driver for this one"
	case errors.Is(err, fetcher.ErrRefused), errors.Is(err, fetcher.ErrNothingSelected):
		f.Code = store.CodeRefused
	}
	return f, retryAfter
}

// backoff is the wait after the nth failure in a row (from 1): doubled each
// time, capped, and spread by jitter in [0,1) over its upper half, so that a
// fleet that failed together does not come back together.
func backoff(iv Intervals, n int, jitter float64) time.Duration {
	d := iv.RetryMin
	for range n - 1 {
		d *= 2
		if d >= iv.RetryMax {
			break
		}
	}
	d = min(d, iv.RetryMax)
	return d/2 + time.Duration(jitter*float64(d/2))
}
