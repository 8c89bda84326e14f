package httpsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// Bounds are how much time and memory an answer of a source may take. The zero
// Bounds are the defaults, which are the same for every source.
type Bounds struct {
	// Header is how long a request may wait for the headers of its answer,
	// connecting included. Default 30 s. An address that took longer has twice the time
	// at the next try, up to ten times Header, or an hour; an hour later it has the
	// usual one again.
	Header time.Duration
	// Silence is how long a body may bring no byte. Default 60 s.
	Silence time.Duration
	// Answer is how long the body of an answer that is no object may take, and
	// Listing how long all answers of one listing may. Default 1 and 5 minutes.
	Answer, Listing time.Duration
	// Rate is how many bytes per second all open objects of a driver bring together
	// at least, over Window of waiting for the source. Default 10 KiB/s over two
	// minutes. Time in which nobody reads, because of a limit or a disk of our own,
	// does not count.
	Rate   int64
	Window time.Duration
	// AnswerBytes bounds the body of an answer that is no object. Default 8 MiB,
	// several times the largest page of a bucket.
	AnswerBytes int64
}

// maxErrorBytes is how much is read of an answer that is a failure; the rest is
// cut off.
const maxErrorBytes = 64 << 10

// OrDefaults returns the bounds with their defaults filled in.
func (b Bounds) OrDefaults() Bounds {
	return Bounds{
		Header:      cmp.Or(b.Header, 30*time.Second),
		Silence:     cmp.Or(b.Silence, time.Minute),
		Answer:      cmp.Or(b.Answer, time.Minute),
		Listing:     cmp.Or(b.Listing, 5*time.Minute),
		Rate:        cmp.Or(b.Rate, 10<<10),
		Window:      cmp.Or(b.Window, 2*time.Minute),
		AnswerBytes: cmp.Or(b.AnswerBytes, 8<<20),
	}
}

// For returns the bounds of one way of access, defaults filled in.
func (b Bounds) For(access fetcher.Access) Bounds {
	b.Header = cmp.Or(access.HeaderTimeout, b.Header)
	return b.OrDefaults()
}

// Exceeded is an answer that went beyond one of the [Bounds].
type Exceeded struct {
	// Kind is fetcher.ErrTransient for time and fetcher.ErrRefused for size.
	Kind error
	// Host is who answered, Reason a clause about it: "sent no headers within 30s".
	Host, Reason string
	// Hint is what to do about it.
	Hint string
	// Slow says that the source sends, but below the least rate.
	Slow bool
	// is is what errors.Is finds besides.
	is error
}

// Error returns the host and the reason.
func (e *Exceeded) Error() string { return cmp.Or(e.Host, "the source") + " " + e.Reason }

// Unwrap makes a slow source, and one without ranges, visible to errors.Is.
func (e *Exceeded) Unwrap() error {
	if e.Slow {
		return fetcher.ErrSlow
	}
	return e.is
}

func tooLarge(host, format string, args ...any) *Exceeded {
	return &Exceeded{
		Kind: fetcher.ErrRefused, Host: host, Reason: fmt.Sprintf(format, args...),
		Hint: "check the endpoint, and that no proxy answers in its place",
	}
}

func tooLate(host, format string, args ...any) *Exceeded {
	return &Exceeded{Kind: fetcher.ErrTransient, Host: host, Reason: fmt.Sprintf(format, args...), Hint: "check the network and the server"}
}

// Exceeded returns the failure that err is because of an [Exceeded], or nil.
func (op Operation) Exceeded(err error) *fetcher.Error {
	var e *Exceeded
	if !errors.As(err, &e) {
		return nil
	}
	return op.Fail(e.Kind, e, e.Hint)
}

// List runs list within the bound of a listing.
func (b Bounds) List(ctx context.Context, op Operation, list func(context.Context) (fetcher.Listing, error)) (fetcher.Listing, error) {
	late := tooLate("", "did not list all of its files within %s", b.Listing)
	bounded, cancel := context.WithTimeoutCause(ctx, b.Listing, late)
	defer cancel()
	listing, err := list(bounded)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(bounded), late) {
		return fetcher.Listing{}, op.Exceeded(late)
	}
	return listing, err
}
