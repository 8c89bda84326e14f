package hf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// Bounds on what a Hub may answer, in bytes: far above what any repository needs.
const (
	maxPage  = 32 << 20 // one JSON answer
	maxInfo  = 8 << 20  // of which is what is said of a revision: it names all files
	maxEntry = 64 << 10 // one entry of a tree
)

// readJSON has read decode a JSON answer of the endpoint, and returns its header.
func (d *Driver) readJSON(ctx context.Context, op operation, target *url.URL, read func(*jsonBody) error) (http.Header, error) {
	header, _, err := d.readNewJSON(ctx, op, target, "", read)
	return header, err
}

// readNewJSON is readJSON for who has the answer with the ETag known, if that is not "":
// changed is false, and nothing is decoded, where the answer is still the same.
func (d *Driver) readNewJSON(ctx context.Context, op operation, target *url.URL, known string, read func(*jsonBody) error) (header http.Header, changed bool, err error) {
	resp, _, err := d.get(ctx, op, target, request{limit: limitAPI, accept: "application/json", known: known})
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return resp.Header, false, nil
	}
	body := newJSONBody(resp.Body, target.Host)
	err = read(body)
	if err == nil {
		err = body.end()
	}
	var failed *fetcher.Error
	switch {
	case err == nil:
		return resp.Header, true, nil
	case ctx.Err() != nil:
		return nil, true, op.ended(ctx, nil)
	case errors.As(err, &failed), errors.Is(err, errNoSizes):
		return nil, true, err
	}
	if e := op.exceeded(err); e != nil {
		return nil, true, e
	}
	if body.broken != nil {
		return nil, true, op.fail(fetcher.ErrTransient, fmt.Errorf("read the answer of %s: %w", target.Host, httpsource.Reword(body.broken)), checkNetwork(target.Host))
	}
	return nil, true, op.unreadable(target.Host, err)
}

// jsonBody decodes an answer value by value, and holds no more of it in memory than
// one value may have.
type jsonBody struct {
	*json.Decoder

	body io.Reader
	host string
	// broken is how the connection ended, which tells it from a text that is no JSON.
	broken error
	// read bytes of the body were read, of which allowed may be.
	read, allowed, most int64
}

func newJSONBody(body io.Reader, host string) *jsonBody {
	b := &jsonBody{body: body, host: host}
	b.Decoder = json.NewDecoder(readerFunc(b.fill))
	b.allow(maxEntry)
	return b
}

// decode reads the next value, which has most bytes at most.
func (b *jsonBody) decode(into any, most int64) error {
	b.allow(most)
	return b.Decode(into)
}

// open reads the beginning of a list or of an object.
func (b *jsonBody) open(want json.Delim) error {
	b.allow(maxEntry)
	first, err := b.Token()
	if err == nil && first != want {
		err = fmt.Errorf("it begins with %v, not with %v", first, want)
	}
	return err
}

// end makes sure that nothing follows.
func (b *jsonBody) end() error {
	b.allow(maxEntry)
	switch token, err := b.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("it goes on behind its end with %T", token)
	}
}

// allow has the decoder read so many bytes beyond what it has decoded.
func (b *jsonBody) allow(most int64) { b.allowed, b.most = b.InputOffset()+most, most }

func (b *jsonBody) fill(p []byte) (int, error) {
	if b.read >= maxPage { // of an answer that was compressed; others have the same bound
		return 0, &httpsource.Exceeded{
			Kind: fetcher.ErrRefused, Host: b.host, Reason: fmt.Sprintf("answers with more than %d MiB", maxPage>>20), Hint: "check that the endpoint is a Hub",
		}
	}
	if b.read >= b.allowed {
		return 0, &httpsource.Exceeded{
			Kind: fetcher.ErrRefused, Host: b.host, Reason: fmt.Sprintf("answers with more than %d KiB for one value", b.most>>10),
			Hint: "check that the endpoint is a Hub",
		}
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.allowed-b.read)])
	b.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		b.broken = err
	}
	return n, err
}

// readerFunc is a function as an io.Reader.
type readerFunc func(p []byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// exceeded returns the failure that err is because of a bound, or nil.
func (op operation) exceeded(err error) *fetcher.Error {
	return httpsource.Operation{Verb: op.verb, Origin: op.origin}.Exceeded(err)
}
