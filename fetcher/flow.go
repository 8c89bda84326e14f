package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// flushEvery bounds how long bytes of a slow connection stay in its buffer.
const flushEvery = time.Second

// errStalled is a connection that brought no byte for the stall timeout.
var errStalled = errors.New("no byte arrived for too long")

// flow is one body while it is read: within MaxRate, and watched for a stall.
// What its user does between two calls, as waiting for the disk, is no stall.
type flow struct {
	pull     *pull
	ctx      context.Context //nolint:containedctx // a flow lives within one call
	file     File
	body     io.ReadCloser
	watchdog *time.Timer
}

// flow opens a range of the file and has use read it.
func (p *pull) flow(ctx context.Context, file File, s store.Span, use func(*flow) error) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := p.f.o.StallTimeout
	watchdog := time.AfterFunc(stall, func() { cancel(errStalled) })
	watchdog.Stop()
	defer watchdog.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errStalled) {
			err = &Error{Kind: ErrTransient, Op: "read", Origin: file.Path, Err: fmt.Errorf("%w (%s)", errStalled, stall), Hint: "check the network"}
		}
	}()
	var roundTrip atomic.Int64
	began := time.Now()
	body, err := p.driver.Open(measured(ctx, &roundTrip), Object{Source: p.source, Revision: p.revision, File: file}, s.From, s.Bytes())
	if err != nil {
		return err
	}
	p.answered(file, time.Since(began), time.Duration(roundTrip.Load()))
	err = use(&flow{pull: p, ctx: ctx, file: file, body: body, watchdog: watchdog})
	// A driver may find only now that the file changed while it was read.
	if closeErr := body.Close(); err == nil {
		err = closeErr
	}
	return err
}

// fill reads until buf is full, or flushEvery has passed, or the body ends or
// fails, or until wants, which is told how much there is, wants no more.
func (f *flow) fill(buf []byte, wants func(got int) int64) (int, error) {
	stall := f.pull.f.o.StallTimeout
	f.watchdog.Reset(stall)
	defer f.watchdog.Stop()
	at, began := 0, time.Now()
	for at < len(buf) {
		if err := f.ctx.Err(); err != nil {
			return at, err
		}
		room := min(int64(len(buf)-at), wants(at))
		if room <= 0 {
			break
		}
		n, err := f.body.Read(buf[at : at+int(room)])
		at += n
		if n > 0 {
			f.pull.received.Add(int64(n))
			wants(at)         // who waits for our own limit has brought what it has
			f.watchdog.Stop() // and does not stall
			if err := f.pull.f.throttle(f.ctx, n); err != nil {
				return at, err
			}
			f.watchdog.Reset(stall)
		}
		if err != nil {
			return at, err
		}
		if time.Since(began) > flushEvery {
			break
		}
	}
	return at, nil
}

// all wants whatever there is room for.
func all(int) int64 { return math.MaxInt64 }

// end makes sure that a body that gave all that was asked for is at its end:
// only then has the driver said that it was right.
func (f *flow) end() error {
	var more [1]byte
	for range 100 {
		n, err := f.fill(more[:], all)
		switch {
		case n > 0:
			return &Error{Kind: ErrCorrupt, Op: "read", Origin: f.file.Path, Err: errors.New("the source sends more than was asked for"), Hint: "do not trust this source"}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// throttle waits until n more bytes are within MaxRate.
func (f *Fetcher) throttle(ctx context.Context, n int) error {
	if f.limiter == nil {
		return nil
	}
	return f.limiter.WaitN(ctx, n)
}
