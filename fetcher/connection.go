package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// bufferSize is what a connection reads before it writes: at most this is lost
// to a kill.
const bufferSize = 1 << 20

// flushEvery bounds how long bytes of a slow connection stay in its buffer.
const flushEvery = time.Second

// errStalled is a connection that brought no byte for the stall timeout.
var errStalled = errors.New("no byte arrived for too long")

// fetch brings a claim, over as many connections as it takes, one after the
// other.
func (p *pull) fetch(ctx context.Context, c *claim, buf []byte) error {
	refusals := 0
	err := p.f.retry(ctx, "fetch "+c.t.file.Path, &p.gate, func(ctx context.Context) (bool, error) {
		if c.t.noRanges.Load() && !c.whole {
			return false, errWhole
		}
		before := c.rest().From
		err := p.connection(ctx, c, buf)
		switch {
		case errors.Is(err, ErrThrottled):
			p.throttled.Store(true)
		case errors.Is(err, ErrNoRanges):
			if refusals++; refusals >= noRangesAfter {
				return false, errWhole
			}
		}
		return c.rest().From > before, err
	})
	if errors.Is(err, errWhole) {
		c.t.noRanges.Store(true)
		return nil // the dispatcher gives out what is left in another way
	}
	return err
}

// noRangesAfter is how often a range must be answered with the whole file until
// that is what is asked for.
const noRangesAfter = 2

// errWhole ends the tries of a range that the source does not give.
var errWhole = errors.New("only the whole file can be had")

// connection reads one body into the partial.
func (p *pull) connection(ctx context.Context, c *claim, buf []byte) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := p.f.o.StallTimeout
	watchdog := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watchdog.Stop()
	file := c.t.file
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errStalled) {
			err = &Error{Kind: ErrTransient, Op: "read", Origin: file.Path, Err: fmt.Errorf("%w (%s)", errStalled, stall), Hint: "check the network"}
		}
	}()
	asked := c.rest()
	if asked.Bytes() == 0 && file.Size > 0 {
		return nil
	}
	open := asked
	if c.whole {
		open = store.Span{To: file.Size}
	}
	body, err := p.driver.Open(ctx, Object{Source: p.req.Source, Revision: p.revision, File: file}, open.From, open.Bytes())
	if err != nil {
		return err
	}
	defer func() {
		// A driver may find only now that the file changed while it was read.
		if closeErr := body.Close(); err == nil {
			err = closeErr
		}
	}()
	onRead := func(n int) error {
		p.received.Add(int64(n))
		watchdog.Stop() // waiting for our own limit is no stall
		err := p.f.throttle(ctx, n)
		watchdog.Reset(stall)
		return err
	}
	for skip := asked.From - open.From; skip > 0; { // it is here already
		n, err := fill(ctx, body, buf[:min(int64(len(buf)), skip)], onRead)
		if err != nil {
			return err
		}
		skip -= int64(n)
		p.downloaded.Add(int64(n))
	}
	for {
		rest := c.rest()
		if rest.Bytes() == 0 {
			if rest.To < asked.To {
				return nil // the others bring what is left of it
			}
			return end(body, file)
		}
		n, readErr := fill(ctx, body, buf[:min(int64(len(buf)), rest.Bytes())], onRead)
		watchdog.Stop() // nor is waiting for our own disk
		if err := p.write(c, buf[:n]); err != nil {
			return c.t.local("write", err)
		}
		watchdog.Reset(stall)
		switch {
		case readErr == nil:
		case !errors.Is(readErr, io.EOF):
			return readErr
		case c.rest().Bytes() > 0:
			return &Error{Kind: ErrTransient, Op: "read", Origin: file.Path, Err: io.ErrUnexpectedEOF}
		default:
			return nil
		}
	}
}

// end makes sure that a body that gave all that was asked for is at its end:
// only then has the driver said that it was right.
func end(body io.Reader, file File) error {
	var more [1]byte
	for range 100 {
		n, err := body.Read(more[:])
		switch {
		case n > 0:
			return &Error{Kind: ErrCorrupt, Op: "read", Origin: file.Path, Err: errors.New("the source sends more than was asked for"), Hint: "do not trust this source"}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// fill reads until buf is full, or flushEvery has passed, or the body ends or
// fails, and tells onRead of each piece.
func fill(ctx context.Context, body io.Reader, buf []byte, onRead func(int) error) (int, error) {
	at, began := 0, time.Now()
	for at < len(buf) {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		n, err := body.Read(buf[at:])
		at += n
		if n > 0 {
			if err := onRead(n); err != nil {
				return at, err
			}
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

// write writes, hashes and counts those of the bytes that are the claim's.
func (p *pull) write(c *claim, b []byte) error {
	at, n := c.take(len(b))
	if n == 0 {
		return nil
	}
	if _, err := c.t.partial.WriteAt(b[:n], at); err != nil {
		return err
	}
	c.t.order.wrote(b[:n], at)
	p.downloaded.Add(int64(n))
	p.meter.add(int64(n))
	return nil
}

// throttle waits until n more bytes are within MaxRate.
func (f *Fetcher) throttle(ctx context.Context, n int) error {
	if f.limiter == nil {
		return nil
	}
	return f.limiter.WaitN(ctx, n)
}
