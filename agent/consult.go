package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stoker-project/stoker/agent/elect"
)

// ledgerStore is where the ledger is kept.
type ledgerStore interface {
	// get returns the ledger's text, empty if there is none, and what put needs.
	get(ctx context.Context) (text, version string, err error)
	// put replaces it; elect.ErrConflict if somebody else has since version.
	put(ctx context.Context, text, version string) error
}

// consult asks the ledger what others have found, tells what this node has, and
// takes the next share. While the API server is away, this node goes on by itself.
func (x *inspector) consult(ctx context.Context, zone string) {
	set := x.setting.Load()
	for try := 1; ; try++ {
		err := x.exchange(ctx, zone)
		if ctx.Err() != nil {
			return
		}
		x.consulted = time.Now()
		if err == nil {
			if x.ready.CompareAndSwap(0, int64(x.hooks.next())) {
				x.hooks.look(ctx)
			}
			return
		}
		if !errors.Is(err, elect.ErrConflict) || try == ledgerTries {
			x.tell("agree with other agents on what to read", err)
			x.refused.Store(apierrors.IsForbidden(err))
			if x.work == nil && !errors.Is(err, elect.ErrConflict) {
				x.work = x.take(&x.own, zone, x.consulted) // alone
				x.idle = x.work == nil
			}
			return
		}
		timer := time.NewTimer(rand.N(min(time.Duration(try)*100*time.Millisecond, set.look)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// exchange is one try of it.
func (x *inspector) exchange(ctx context.Context, zone string) error {
	set := x.setting.Load()
	callCtx, cancel := context.WithTimeout(ctx, set.timeout) // of the calls: a look at the store goes on
	defer cancel()
	before, version, err := x.ledger.get(callCtx)
	if err != nil {
		return err
	}
	l, err := parseLedger(before)
	if err != nil {
		x.tell("read what other agents have read", err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	l.tidy(now, set.scrub.Cycle)
	l.release(x.node)
	for _, m := range x.models {
		if acc := x.own.find(m.key); acc != nil && l.find(m.key) == nil {
			l.Accounts = append(l.Accounts, acc) // somebody deleted it, or it could not be told
		}
	}
	for k, files := range x.results {
		m := x.model(k)
		if m == nil {
			continue // it is not there any more
		}
		acc := l.open(k, len(m.Files), now, set.scrub.Cycle)
		for i, f := range files {
			if !f.At.Before(acc.Began) || !f.Right {
				acc.found(i, x.node, f.Right, f.At)
			}
		}
	}
	x.adopt(ctx, &l, zone)
	work := x.goOn(&l, now)
	if work == nil {
		work = x.take(&l, zone, now)
	}
	after, err := l.encode()
	if err == nil && after != before {
		err = x.ledger.put(callCtx, after, version)
	}
	if err != nil {
		return err
	}
	x.own, x.work, x.idle = l, work, work == nil
	clear(x.results)
	x.show(nil)
	return nil
}

// adopt takes over what others have found. What this process has read itself, it
// knows better. A file about which nodes disagree stands as this node has found it;
// before it has, it is not promised by a process that knows nothing else of it.
func (x *inspector) adopt(ctx context.Context, l *ledger, zone string) {
	changed := false
	for _, m := range x.models {
		acc := l.find(m.key)
		if acc == nil {
			x.adopted[m.key] = true
			continue
		}
		first := !x.adopted[m.key]
		x.adopted[m.key] = true
		for i := range m.Files {
			if _, own := x.judged[m.key][i]; own {
				continue
			}
			switch mine, read := acc.Contested[strconv.Itoa(i)][x.node]; {
			case !acc.wrong(i):
				if acc.vouched(i) && !m.seen.Known[i] && !m.seen.Doubted[i] {
					x.store.Trust(m.Manifest, m.seen, i)
					changed = true
				}
			case first && read && mine.Right:
				x.store.Trust(m.Manifest, m.seen, i)
				changed = true
			case first:
				x.store.Doubt(m.Manifest, m.seen, i)
				changed = true
			}
		}
	}
	if !changed {
		return
	}
	if err := x.survey(ctx, zone); err != nil {
		x.tell("look at the volume's content", err)
	}
	x.hooks.look(ctx)
}
