package httpsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Body reads a transfer and ends without an error only after all the bytes that
// were promised.
type Body struct {
	ctx  context.Context //nolint:containedctx // the reader lives as long as the ctx of Open, by contract
	op   Operation
	host string
	body io.ReadCloser
	left int64
}

// NewBody wraps a body that has left bytes to give. op and host are what errors
// speak of; ending ctx ends the reading.
func NewBody(ctx context.Context, op Operation, host string, body io.ReadCloser, left int64) *Body {
	op.Verb = "read"
	return &Body{ctx: ctx, op: op, host: host, body: body, left: left}
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if err := b.op.Ended(b.ctx, nil); err != nil { // also when more has arrived already
		return 0, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	switch {
	case err == nil:
		return n, nil
	case b.left == 0: // all is there, whatever became of the connection
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, b.op.Ended(b.ctx, b.op.Broken(b.host, err))
}

// Close implements io.Closer.
func (b *Body) Close() error { return b.body.Close() }

// Part is an answer to a request for the bytes of a file from an offset on.
type Part struct {
	Status int
	// Range is the Content-Range, Encoding the Content-Encoding.
	Range, Encoding string
	// Length is the Content-Length, -1 if there is none.
	Length int64
}

// Check makes sure that the body is exactly the file's size bytes from offset to
// their end.
func (p Part) Check(size, offset int64) error {
	if p.Encoding != "" && p.Encoding != "identity" {
		return fmt.Errorf("answered with the encoding %q, which was not asked for", Plain(p.Encoding))
	}
	switch p.Status {
	case http.StatusPartialContent:
		if p.Range != fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size) && p.Range != fmt.Sprintf("bytes %d-%d/*", offset, size-1) {
			return fmt.Errorf("answered with the range %q of what should be %d bytes from %d", Plain(p.Range), size, offset)
		}
	case http.StatusOK:
		if offset > 0 {
			return fmt.Errorf("sends the whole file where %d bytes from %d were asked for", size-offset, offset)
		}
	default:
		return fmt.Errorf("answered %d", p.Status)
	}
	if p.Length >= 0 && p.Length != size-offset {
		return fmt.Errorf("answered with %d bytes, not %d", p.Length, size-offset)
	}
	return nil
}
