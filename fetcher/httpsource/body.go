package httpsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// Body reads a transfer and ends without an error only after all the bytes that
// were promised.
type Body struct {
	ctx  context.Context //nolint:containedctx // the reader lives as long as the ctx of Open, by contract
	op   Operation
	host string
	body io.ReadCloser
	left int64
	// ended says that body gives no more, for better or worse.
	ended bool
}

// lastWait bounds how long Close waits for the end of a body all of whose bytes
// have come.
const lastWait = time.Second

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
	b.ended = err != nil
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

// Close implements io.Closer. The connection of a body that was read to its last
// byte serves the next request.
func (b *Body) Close() error {
	if b.left == 0 && !b.ended {
		// net/http keeps a connection only after it has seen the body's end, which
		// may be more than the last byte: a chunked body has a mark of its own.
		impatient := time.AfterFunc(lastWait, func() { _ = b.body.Close() })
		_, _ = b.body.Read(make([]byte, 1))
		impatient.Stop()
	}
	if err := b.body.Close(); err != nil && b.left > 0 {
		return b.op.Ended(b.ctx, b.op.Broken(b.host, err))
	}
	return nil // all is there, whatever became of the connection
}

// Range is the header that asks for length bytes from offset of a file of size
// bytes. What reaches the file's end is asked for without naming it, as clients
// do that take up a transfer.
func Range(size, offset, length int64) string {
	if offset+length == size {
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)
}

// Part is an answer to a request for a range of a file.
type Part struct {
	Status int
	// Range is the Content-Range.
	Range string
	// Length is the Content-Length, -1 if there is none.
	Length int64
}

// errNoContentRange is a Content-Range in a form that no standard has, which the same
// server would write the next time, too.
var errNoContentRange = errors.New("answered with a Content-Range that is none of bytes")

// KindOfPart is the kind of an error of [Part.Check].
func KindOfPart(err error) error {
	if errors.Is(err, errNoContentRange) {
		return fetcher.ErrRefused
	}
	return fetcher.ErrTransient
}

// Check makes sure that the body is exactly length bytes from offset of a file
// of size bytes. A 206 without Content-Range is believed where the whole file was
// asked for: then it can be no other part.
func (p Part) Check(size, offset, length int64) error {
	switch p.Status {
	case http.StatusPartialContent:
		span := fmt.Sprintf("bytes %d-%d/", offset, offset+length-1)
		unit, rest, hasUnit := strings.Cut(p.Range, " ")
		if p.Range != "" && (!hasUnit || !strings.EqualFold(unit, "bytes")) { // a unit has no case (RFC 9110, 14.1)
			return errNoContentRange
		}
		if p.Range == "" && length < size {
			return fmt.Errorf("sends a part of the file and no Content-Range, which would tell which part it is: %w", fetcher.ErrNoRanges)
		}
		if got := "bytes " + rest; p.Range != "" && got != span+strconv.FormatInt(size, 10) && got != span+"*" {
			return fmt.Errorf("answered with another range than %d bytes from %d of %d", length, offset, size)
		}
	case http.StatusOK:
		if offset > 0 || length < size {
			return fmt.Errorf("sends the whole file where %d bytes from %d were asked for: %w", length, offset, fetcher.ErrNoRanges)
		}
	default:
		return fmt.Errorf("answered %d", p.Status)
	}
	if p.Length >= 0 && p.Length != length {
		return fmt.Errorf("answered with %d bytes, not %d", p.Length, length)
	}
	return nil
}
