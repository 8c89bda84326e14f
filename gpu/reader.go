package gpu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// callLimit bounds one read for callers whose context has no nearer
	// deadline. A healthy driver answers within milliseconds; the first Init
	// on a machine without persistence mode takes a few seconds.
	callLimit = 10 * time.Second
	// closeLimit bounds Close.
	closeLimit = 5 * time.Second
	// reinitInterval is how often the library is initialized anew while a
	// device is lost: often enough to see a reset, seldom enough that the
	// seconds which Init may take do not become the load.
	reinitInterval = time.Minute
)

// backend is where devices come from. Its methods are never called
// concurrently, any of them may hang, and errors wrap this package's sentinels.
type backend interface {
	// open is called before the first devices, after close, and again after a
	// failed open.
	open() error
	// devices may end early when ctx is done, but need not.
	devices(ctx context.Context) ([]Device, error)
	close() error
}

// reading opens the errors of Reader.Devices.
const reading = "read GPUs"

// errStale is what a backend's devices wraps when it must be opened again
// before it can answer.
var errStale = errors.New("NVML must be initialized again")

// Reader reads the devices of this machine. It is safe for concurrent use; use
// one per process, because NVML's state is per process. A program that runs for
// long wants [OpenInChild].
//
// A call into the driver can hang for good (a GPU that has fallen off the bus,
// a module being unloaded), and nothing can interrupt it. So each read runs in
// a goroutine of its own, one at a time, and the caller waits for it no longer
// than its context and 10 seconds allow.
type Reader struct {
	backend backend
	slot    chan struct{} // holds one token: the right to call the backend

	// Owned by the holder of the slot.
	opened   bool
	openedAt time.Time

	mu     sync.Mutex
	closed bool
	hung   bool      // the call that holds the slot was given up
	since  time.Time // when it began
}

func newReader(b backend) *Reader {
	r := &Reader{backend: b, slot: make(chan struct{}, 1)}
	r.slot <- struct{}{}
	return r
}

type result struct {
	devices []Device
	err     error
}

// Devices reads every device, GPUs in the order of their index, each followed
// by its MIG devices. The list is empty if there is a driver and no GPU.
//
// It returns within ctx and 10 seconds, whichever ends first. If the driver
// has not answered by then, the error wraps ErrTimeout, and calls made until it
// does answer return ErrTimeout at once. If ctx is canceled, its error is
// returned and nothing is held against the driver.
//
// A driver that appears, is upgraded or recovers is seen by a later call; see
// ErrVersionMismatch for the one case in which a Reader of Open does not.
func (r *Reader) Devices(ctx context.Context) ([]Device, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()

	if err := r.acquire(ctx); err != nil {
		return nil, fmt.Errorf(reading+": %w", err)
	}
	done := make(chan result, 1)
	go func() {
		var res result
		defer func() {
			r.release()
			done <- res
		}()
		res.devices, res.err = r.read(ctx)
	}()
	select {
	case res := <-done:
		if res.err != nil {
			return nil, fmt.Errorf(reading+": %w", res.err)
		}
		return res.devices, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf(reading+": %w", r.giveUp())
		}
		return nil, fmt.Errorf(reading+": %w", ctx.Err())
	}
}

// acquire waits for the right to call the backend.
func (r *Reader) acquire(ctx context.Context) error {
	if err := r.refuse(); err != nil {
		return err
	}
	select {
	case <-r.slot:
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("wait for an earlier call: %w", ErrTimeout)
		}
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		r.slot <- struct{}{}
		return os.ErrClosed
	}
	r.since = time.Now()
	return nil
}

// refuse tells why a call need not even wait.
func (r *Reader) refuse() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return os.ErrClosed
	case r.hung, !r.since.IsZero() && time.Since(r.since) >= callLimit:
		return r.timeout()
	}
	return nil
}

// giveUp marks the running call as hung, unless it has just ended.
func (r *Reader) giveUp() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		return ErrTimeout
	}
	r.hung = true
	return r.timeout()
}

// timeout needs r.mu.
func (r *Reader) timeout() error {
	return fmt.Errorf("a call has not returned for %s: %w", time.Since(r.since).Round(time.Millisecond), ErrTimeout)
}

// release gives the slot back; after Close, it does what Close could not.
func (r *Reader) release() {
	r.mu.Lock()
	r.hung, r.since = false, time.Time{}
	closed := r.closed
	r.mu.Unlock()
	if closed {
		// Nobody is left who could use the error.
		_ = r.shutdown()
	}
	r.slot <- struct{}{}
}

// read needs the slot.
func (r *Reader) read(ctx context.Context) ([]Device, error) {
	if !r.opened {
		if err := r.backend.open(); err != nil {
			return nil, err
		}
		r.opened, r.openedAt = true, time.Now()
	}
	devices, err := r.backend.devices(ctx)
	switch {
	case errors.Is(err, errStale), errors.Is(err, ErrVersionMismatch), errors.Is(err, ErrLost), errors.Is(err, ErrNoDriver), errors.Is(err, ErrUnknown):
		// What failed the whole read is over or needs a new Init. The error
		// of closing a broken library adds nothing to the one in hand.
		_ = r.shutdown()
	case err == nil && anyLost(devices) && time.Since(r.openedAt) >= reinitInterval:
		// A GPU that was reset is seen only by a new Init.
		_ = r.shutdown()
	}
	return devices, err
}

func anyLost(devices []Device) bool {
	for _, d := range devices {
		if d.State == StateLost || d.State == StateResetRequired {
			return true
		}
	}
	return false
}

// shutdown needs the slot.
func (r *Reader) shutdown() error {
	if !r.opened {
		return nil
	}
	r.opened = false
	return r.backend.close()
}

// Close releases the library. It waits at most 5 seconds for a call that is
// still running; if that has not returned by then, the error wraps ErrTimeout,
// and the library is released by that call when it returns. Closing twice is
// harmless.
func (r *Reader) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()

	timer := time.NewTimer(closeLimit)
	defer timer.Stop()
	select {
	case <-r.slot:
	case <-timer.C:
		return fmt.Errorf("close GPU reader: %w", ErrTimeout)
	}
	done := make(chan error, 1)
	go func() {
		err := r.shutdown()
		r.slot <- struct{}{}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close GPU reader: %w", err)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("close GPU reader: %w", ErrTimeout)
	}
}
