package httpsource

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// objectKey marks requests for objects in their contexts.
type objectKey struct{}

// object is what a request for one asks for: length bytes of its size.
type object struct{ size, length int64 }

// ForObject marks the requests of an operation as ones for length bytes of an object of
// size bytes: the body of a good answer is as long.
func ForObject(ctx context.Context, size, length int64) context.Context {
	return context.WithValue(ctx, objectKey{}, object{size, length})
}

// bounded is a transport whose answers keep to bounds.
type bounded struct {
	base   http.RoundTripper
	bounds Bounds
	shape  Shape
	// open counts the objects that are being read.
	open atomic.Int64
	late lateness
}

// Transport makes the answers of rt keep to the bounds; those that are no object
// also to the shape. What goes beyond them fails as [Exceeded]: from RoundTrip, or
// from the body's Read. Bodies of failures end early instead.
func (b Bounds) Transport(rt http.RoundTripper, shape Shape) http.RoundTripper {
	return &bounded{base: rt, bounds: b.OrDefaults(), shape: shape}
}

// CloseIdleConnections closes those of the transport beneath.
func (t *bounded) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (t *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.exchange(req.Context(), Host(req.URL), address(req.URL), func(ctx context.Context) (*http.Response, error) {
		resp, err := t.base.RoundTrip(req.WithContext(ctx))
		if err == nil {
			if refusal := refusedOnTheWay(t.base, req, resp); refusal != nil {
				_ = resp.Body.Close()
				resp, err = nil, refusal
			}
		}
		return resp, throughProxy(t.base, req, err)
	})
}

// Exchange makes the answer that ask gets of host keep to the bounds, as
// [Bounds.Transport] does, where a client's transport is not ours.
func (b Bounds) Exchange(ctx context.Context, host string, ask func(context.Context) (*http.Response, error)) (*http.Response, error) {
	return (&bounded{bounds: b.OrDefaults()}).exchange(ctx, host, host, ask)
}

func (t *bounded) exchange(ctx context.Context, host, address string, ask func(context.Context) (*http.Response, error)) (*http.Response, error) {
	ctx, end := context.WithCancelCause(ctx)
	wait := t.late.bound(address, t.bounds.Header)
	timer := time.AfterFunc(wait, func() { end(errLate) })
	resp, err := ask(ctx)
	if !timer.Stop() && errors.Is(context.Cause(ctx), errLate) {
		if err == nil {
			_ = resp.Body.Close() // the headers came too late
		}
		return nil, noHeaders(host, wait, t.late.grow(address, wait, t.bounds.Header))
	}
	if err != nil {
		end(nil)
		return nil, err
	}
	asked, isObject := ctx.Value(objectKey{}).(object)
	if err := t.decode(resp, host, asked, isObject); err != nil {
		_ = resp.Body.Close()
		end(nil)
		return nil, err
	}
	body := &boundedBody{body: resp.Body, ctx: ctx, end: end, bounds: t.bounds}
	switch {
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		body.limit = &limitedAnswer{host: host, left: maxErrorBytes, cut: true}
	case !isObject:
		body.limit = &limitedAnswer{host: host, most: t.bounds.AnswerBytes, left: t.bounds.AnswerBytes, shape: t.shape.counter()}
	default:
		t.open.Add(1)
		body.rate = &leastRate{open: &t.open, bounds: t.bounds, host: host}
	}
	if body.limit != nil {
		slow := tooLate(host, "did not end its answer within %s", t.bounds.Answer)
		body.whole = time.AfterFunc(t.bounds.Answer, func() { end(slow) })
	}
	silent := tooLate(host, "sent no byte for %s", t.bounds.Silence)
	body.silence = time.AfterFunc(t.bounds.Silence, func() { end(silent) })
	body.silence.Stop()
	resp.Body = body
	return resp, nil
}

// decode takes off what answers are compressed with. Whoever fails keeps to its status:
// a page about it that cannot be decoded is left out.
func (t *bounded) decode(resp *http.Response, host string, asked object, isObject bool) error {
	switch {
	case resp.Request != nil && resp.Request.Method == http.MethodHead:
		return nil
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		if decode(resp, host, t.bounds.AnswerBytes) != nil {
			_ = resp.Body.Close()
			resp.Body = http.NoBody
		}
		return nil
	case isObject:
		return decodeObject(resp, host, asked)
	}
	return decode(resp, host, t.bounds.AnswerBytes)
}

// errLate ends an exchange without headers.
var errLate = errors.New("no headers in time")

// boundedBody is a body that keeps to bounds. Only Close may be called beside
// Read.
type boundedBody struct {
	body   io.ReadCloser
	ctx    context.Context //nolint:containedctx // the request's, which ends with the body
	end    context.CancelCauseFunc
	bounds Bounds
	// silence runs while Read waits, whole from the headers to Close.
	silence, whole *time.Timer
	// limit is of answers that are no object, rate of objects.
	limit *limitedAnswer
	rate  *leastRate
	// failed is what ended the body for good.
	failed error
	closed sync.Once
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	if b.limit != nil {
		if b.limit.cut && b.limit.left == 0 {
			return 0, io.EOF
		}
		p = b.limit.room(p)
	}
	began := time.Now()
	b.silence.Reset(b.bounds.Silence)
	n, err := b.body.Read(p)
	b.silence.Stop()
	if err != nil {
		var late *Exceeded
		if errors.As(context.Cause(b.ctx), &late) {
			err = late
		}
		return n, b.fail(err)
	}
	switch {
	case b.limit != nil:
		err = b.limit.took(p[:n])
	default:
		err = b.rate.took(n, time.Since(began))
	}
	if err != nil {
		return n, b.fail(err)
	}
	return n, nil
}

// fail keeps what ended the body. What broke a bound ends its connection, too.
func (b *boundedBody) fail(err error) error {
	b.failed = err
	var e *Exceeded
	if errors.As(err, &e) {
		b.end(err)
	}
	return err
}

// Close implements io.Closer.
func (b *boundedBody) Close() error {
	err := b.body.Close()
	b.closed.Do(func() {
		b.silence.Stop()
		if b.whole != nil {
			b.whole.Stop()
		}
		if b.rate != nil {
			b.rate.open.Add(-1)
		}
		b.end(nil)
	})
	return err
}

// limitedAnswer bounds an answer that is no object.
type limitedAnswer struct {
	host       string
	most, left int64
	// cut says that what is beyond is left out, without an error.
	cut   bool
	shape counter
}

// room returns the part of p that may be filled. Of an answer that is not cut, that
// is one byte more than it may have, which tells that it has more.
func (l *limitedAnswer) room(p []byte) []byte {
	left := l.left
	if !l.cut {
		left++
	}
	return p[:min(int64(len(p)), left)]
}

func (l *limitedAnswer) took(p []byte) error {
	l.left -= int64(len(p))
	switch {
	case l.left < 0:
		return tooLarge(l.host, "answers with more than %d MiB where it should send a list or a token", l.most>>20)
	case l.shape != nil && !l.shape.count(p):
		return tooLarge(l.host, "answers with more entries than one page may have")
	}
	return nil
}

// leastRate is how fast one object must come: open objects share the rate, so that
// a slow link is as good with many connections as with one.
type leastRate struct {
	open   *atomic.Int64
	bounds Bounds
	host   string
	// waited is time in Read, got and owed are bytes.
	waited    time.Duration
	got, owed float64
}

func (r *leastRate) took(n int, waited time.Duration) error {
	r.waited += waited
	r.got += float64(n)
	r.owed += waited.Seconds() * float64(r.bounds.Rate) / float64(max(r.open.Load(), 1))
	if r.waited < r.bounds.Window {
		return nil
	}
	if r.got < r.owed {
		e := tooLate(r.host, "sent %d bytes in %s, which is too slow to wait for", int64(r.got), r.waited.Round(time.Second))
		e.Slow = true
		return e
	}
	r.waited, r.got, r.owed = 0, 0, 0
	return nil
}
