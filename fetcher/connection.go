package fetcher

import (
	"context"
	"errors"
	"io"

	"github.com/stoker-project/stoker/fetcher/store"
)

// bufferSize is the most that a connection reads before it writes, which is what
// a kill costs it. Many connections have less each.
const (
	bufferSize   = 1 << 20
	bufferMin    = 256 << 10
	bufferBudget = 8 << 20
)

// fetch brings a claim, over as many connections as it takes, one after the
// other.
func (p *pull) fetch(ctx context.Context, c *claim, buf []byte) error {
	refusals := 0
	err := p.retry(ctx, c.t.file, func(ctx context.Context) (int64, error) {
		if c.t.noRanges.Load() && !c.whole {
			return 0, errWhole
		}
		before := c.rest().From
		c.asks()
		err := p.connection(ctx, c, buf)
		c.rests()
		if errors.Is(err, ErrNoRanges) {
			if refusals++; refusals >= noRangesAfter {
				return 0, errWhole
			}
		}
		return c.rest().From - before, err
	})
	if errors.Is(err, errWhole) {
		c.t.noRanges.Store(true)
		return nil // the dispatcher gives out what is left in another way
	}
	return err
}

// retry tries to get on with a file, until it is here or there is no use.
func (p *pull) retry(ctx context.Context, f File, try func(context.Context) (got int64, err error)) error {
	return p.f.retry(ctx, "fetch "+f.Path, &p.gate, func(ctx context.Context) (int64, error) {
		got, err := try(ctx)
		if errors.Is(err, ErrThrottled) {
			p.throttled.Store(true)
		}
		return got, err
	})
}

// noRangesAfter is how often a range must be answered with the whole file until
// that is what is asked for.
const noRangesAfter = 2

// errWhole ends the tries of a range that the source does not give.
var errWhole = errors.New("only the whole file can be had")

// connection reads one body into the partial.
func (p *pull) connection(ctx context.Context, c *claim, buf []byte) error {
	file, asked := c.t.file, c.rest()
	if asked.Bytes() == 0 {
		// All was brought, and then something failed, or the rest is another's by
		// now: whether the file has changed is to be asked all the same.
		return p.flow(ctx, file, asked, (*flow).end)
	}
	open := asked
	if c.whole {
		open = store.Span{To: file.Size}
	}
	return p.flow(ctx, file, open, func(f *flow) error {
		for skip := asked.From - open.From; skip > 0; { // it is here already
			n, err := f.fill(buf[:min(int64(len(buf)), skip)], all)
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
				return f.end()
			}
			n, readErr := f.fill(buf, c.wants)
			if err := p.write(c, buf[:n]); err != nil {
				return c.t.local("write", err)
			}
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
	})
}

// write writes, hashes and counts those of the bytes that are the claim's.
func (p *pull) write(c *claim, b []byte) error {
	at, n := c.take(len(b))
	if c.whole {
		return p.writeMissing(c, b[:n], at)
	}
	return p.writeAt(c, b[:n], at)
}

// writeMissing leaves alone what is here already, and perhaps hashed.
func (p *pull) writeMissing(c *claim, b []byte, at int64) error {
	missing := []store.Span{{From: at, To: at + int64(len(b))}}
	for _, w := range c.t.partial.Written() {
		last := &missing[len(missing)-1]
		if w.To <= last.From || w.From >= last.To {
			continue
		}
		rest := store.Span{From: min(w.To, last.To), To: last.To}
		last.To = max(w.From, last.From)
		missing = append(missing, rest)
	}
	for _, m := range missing {
		if err := p.writeAt(c, b[m.From-at:m.To-at], m.From); err != nil {
			return err
		}
	}
	return nil
}

func (p *pull) writeAt(c *claim, b []byte, at int64) error {
	n := len(b)
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
