package cluster

import (
	"context"
	"fmt"
	"time"
)

const (
	// pollInterval is how often conditions are looked at: short, because a test is made of many of them.
	pollInterval = 50 * time.Millisecond
	// waitLimit bounds a wait whose context has no deadline. It is a guard against hanging, far above what any
	// condition takes on a slow machine.
	waitLimit = 2 * time.Minute
)

// WaitFor polls cond until it is true and returns nil then. It gives up when ctx ends, or after two minutes where ctx
// has no deadline, and says what it waited for and what cond said last. An error of cond is kept for that message and
// does not end the wait: against an API server most of them pass.
func WaitFor(ctx context.Context, what string, cond func(ctx context.Context) (bool, error)) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, waitLimit)
		defer cancel()
	}
	started := time.Now()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		ok, err := cond(ctx)
		if err == nil && ok {
			return nil
		}
		// The last call is often cut by the deadline itself and then only says so: the error before tells more.
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			waited := time.Since(started).Round(time.Millisecond)
			if last != nil {
				return fmt.Errorf("wait for %s: %w after %s, at last: %w", what, ctx.Err(), waited, last)
			}
			return fmt.Errorf("wait for %s: %w after %s", what, ctx.Err(), waited)
		case <-ticker.C:
		}
	}
}
