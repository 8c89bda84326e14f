package fetcher

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// How a pull's connections are shared out.
const (
	// openMost bounds the files that are open at once.
	openMost = 64
	// A power cut costs what was written since the last checkpoint.
	checkpointEvery = 5 * time.Second
	checkpointBytes = 1 << 30
)

// dispatcher shares a pull's connections out among its files. While there are
// as many files as connections, each gets one, which hashes what it brings out
// of its own buffer; the last and the largest files are fetched in ranges over
// several. All of its state belongs to the goroutine of run; whoever has done
// something tells it by an event.
type dispatcher struct {
	p       *pull
	group   *errgroup.Group
	events  chan func()
	ended   chan struct{} // nobody hears events any more: all is here
	large   []content     // not begun
	open    []*transfer   // begun and not in the store yet
	opening int           // about to take a connection
	blocked int           // opening, but another pull has the file
	busy    int           // connections at work
	left    int           // contents that are not in the store yet
	buffers [][]byte      // that no connection uses

	pace  *pace
	far   bool    // the source is, see farFrom
	full  bool    // since the last look there was work for every connection
	usual float64 // bytes per second of a connection, lately
	chunk int64   // how long a range is that does not go to the file's end
	last  struct {
		look        time.Time
		bytes       int64
		checkpoint  time.Time
		checkpoints int64 // bytes downloaded then
	}
	checkpointing bool

	small smallFiles
}

// transferAll brings the contents into the store, in the order given.
func (p *pull) transferAll(ctx context.Context, contents []content) error {
	group, ctx := errgroup.WithContext(ctx)
	d := &dispatcher{
		p: p, group: group, events: make(chan func()), ended: make(chan struct{}), left: len(contents),
		pace: newPace(p.f.o.Jobs), chunk: chunkFirst,
	}
	for _, c := range contents {
		if c.file.Size <= smallSize || p.wasRead(c.file) != nil {
			d.small.waiting = append(d.small.waiting, c)
		} else {
			d.large = append(d.large, c)
		}
	}
	group.Go(func() error { return d.run(ctx) })
	errs := []error{group.Wait()}
	for _, t := range d.open {
		errs = append(errs, t.close())
	}
	return errors.Join(errs...)
}

func (d *dispatcher) run(ctx context.Context) error {
	defer close(d.ended)
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	d.last.look = time.Now()
	d.last.checkpoint = d.last.look
	for d.left > 0 {
		d.measureWay()
		d.assign(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-d.events:
			event()
		case <-d.p.woken:
		case now := <-ticker.C:
			d.sample(now)
			if now.Sub(d.last.look) >= paceEvery {
				d.look(now)
				d.checkpoint(ctx, now)
			}
		}
	}
	return nil
}

// tell has the event happen in the goroutine of run. It does not happen if all
// contents are here by then: a checkpoint may end later than what it was for.
func (d *dispatcher) tell(ctx context.Context, event func()) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ended:
		return nil
	case d.events <- event:
		return nil
	}
}

// assign gives every connection that is free something to do.
func (d *dispatcher) assign(ctx context.Context) {
	d.p.starved.Store(false)
	for ctx.Err() == nil && d.busy+d.opening < d.pace.target {
		if d.beginSmall(ctx) {
			continue
		}
		if len(d.large) > 0 && len(d.open)+d.opening+d.blocked < openMost && d.fetching()+d.opening < d.pace.target {
			d.begin(ctx)
			continue
		}
		c := d.next()
		if c == nil {
			d.full = false
			return
		}
		d.connect(ctx, c)
	}
}

// fetching is how many of the open files are not written whole.
func (d *dispatcher) fetching() int {
	n := 0
	for _, t := range d.open {
		if !t.finishing {
			n++
		}
	}
	return n
}

// begin opens the next large file.
func (d *dispatcher) begin(ctx context.Context) {
	t := &transfer{pull: d.p, content: d.large[0], file: d.large[0].file}
	d.large = d.large[1:]
	d.opening++
	d.group.Go(func() error {
		counted := &d.opening
		sum, err := t.open(ctx, func() {
			if d.tell(ctx, func() { d.opening--; d.blocked++ }) == nil {
				counted = &d.blocked
			}
		})
		if err == nil {
			err = d.tell(ctx, func() {
				*counted--
				if sum != "" {
					d.done(t.content, sum)
					return
				}
				d.open = append(d.open, t)
				d.finishIfWhole(ctx, t)
			})
		}
		if err != nil {
			return errors.Join(err, t.close())
		}
		return nil
	})
}

func (d *dispatcher) done(c content, sum string) {
	d.left--
	d.p.found(c, sum)
}

// connect has a connection bring the claim.
func (d *dispatcher) connect(ctx context.Context, c *claim) {
	t := c.t
	t.claims = append(t.claims, c)
	d.busy++
	buf := d.buffer()
	own, relieved := context.WithCancel(ctx)
	c.relieved = relieved
	d.group.Go(func() error {
		defer relieved()
		// An error is forgotten only if the connection was ended because there is
		// nothing left for it.
		if err := d.p.fetch(own, c, buf); err != nil && (ctx.Err() != nil || own.Err() == nil) {
			return t.refused(err)
		}
		return d.tell(ctx, func() {
			d.busy--
			d.buffers = append(d.buffers, buf[:cap(buf)])
			for i := range t.claims {
				if t.claims[i] == c {
					t.claims = append(t.claims[:i], t.claims[i+1:]...)
					break
				}
			}
			d.finishIfWhole(ctx, t)
		})
	})
}

// buffer is what a connection reads into. All of them share a budget: what is
// not used of a buffer takes no memory.
func (d *dispatcher) buffer() []byte {
	size := min(max(bufferBudget/d.pace.target, bufferMin), bufferSize)
	if n := len(d.buffers); n > 0 {
		buf := d.buffers[n-1]
		d.buffers = d.buffers[:n-1]
		return buf[:size]
	}
	return make([]byte, bufferSize)[:size]
}

func (d *dispatcher) finishIfWhole(ctx context.Context, t *transfer) {
	if len(t.claims) > 0 || t.gap().Bytes() > 0 {
		return
	}
	t.finishing = true
	d.group.Go(func() error {
		sum, err := t.finish(ctx)
		if err != nil {
			return err
		}
		return d.tell(ctx, func() {
			if sum == "" { // they did not verify
				t.finishing = false
				return
			}
			for i := range d.open {
				if d.open[i] == t {
					d.open = append(d.open[:i], d.open[i+1:]...)
					break
				}
			}
			d.done(t.content, sum)
		})
	})
}

// hearThrottled tells the pace whether the source asked for patience since the last time.
func (d *dispatcher) hearThrottled() bool {
	if !d.p.throttled.Swap(false) {
		return false
	}
	d.pace.throttled()
	return true
}

// look adapts the number of connections and the length of ranges to the rate.
func (d *dispatcher) look(now time.Time) {
	bytes := d.p.received.Load()
	rate := float64(bytes-d.last.bytes) / now.Sub(d.last.look).Seconds()
	d.last.look, d.last.bytes = now, bytes
	if !d.hearThrottled() {
		before := d.pace.target
		d.pace.look(rate, d.full)
		if d.pace.target != before {
			d.p.f.o.Logger.Debug("changing the number of connections", "from", before, "to", d.pace.target, "bytes_per_second", int64(rate))
		}
	}
	d.full = true
	if rate > 0 && d.busy > 0 {
		chunk := int64(rate * chunkTime.Seconds() / float64(d.busy))
		d.chunk = max(min(chunk, chunkMax, d.p.f.o.Memory/64), chunkMin) &^ (bufferSize - 1)
	}
}

// checkpoint makes what was written durable, when it is time.
func (d *dispatcher) checkpoint(ctx context.Context, now time.Time) {
	bytes := d.p.downloaded.Load()
	if d.checkpointing || now.Sub(d.last.checkpoint) < checkpointEvery && bytes-d.last.checkpoints < checkpointBytes {
		return
	}
	d.checkpointing = true
	d.last.checkpoint, d.last.checkpoints = now, bytes
	open := append([]*transfer(nil), d.open...)
	d.group.Go(func() error {
		for _, t := range open {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := t.checkpoint(); err != nil {
				return err
			}
		}
		return d.tell(ctx, func() { d.checkpointing = false })
	})
}
