package hf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// maxSkip is how many bytes are read and thrown away when a server ignores a
// range, as some do for small files.
const maxSkip = 1 << 20

// Open implements [fetcher.Driver]. A signed URL that the CDN refuses as
// expired is asked for once more.
func (d *Driver) Open(ctx context.Context, obj fetcher.Object, offset int64) (io.ReadCloser, error) {
	f := obj.File
	op := operation{verb: "open", origin: f.Path + " of " + obj.Source.WithoutRevision() + "@" + obj.Revision, repo: obj.Source.Path}
	switch {
	case ctx.Err() != nil:
		return nil, op.ended(ctx, nil)
	case obj.Source.Scheme != fetcher.SchemeHub || !fetcher.IsCommit(obj.Revision):
		return nil, op.fail(fetcher.ErrRefused, errors.New("it is no file of a commit on the Hub"), "list the source first")
	case offset < 0 || offset > f.Size:
		return nil, op.fail(fetcher.ErrRefused, fmt.Errorf("offset %d is outside its %d bytes", offset, f.Size), "list the source again")
	case offset == f.Size:
		return http.NoBody, nil
	}
	target := d.url("/" + obj.Source.Path + "/resolve/" + obj.Revision + "/" + escapePath(f.Path))
	r := request{
		limit:  limitResolves,
		ranged: fmt.Sprintf("bytes=%d-", offset), // from 0 as well: above 50 GB the CDN wants one
		see:    func(h http.Header) error { return checkIdentity(op, obj, h) },
	}
	resp, err := d.get(ctx, op, target, r)
	if errors.Is(err, errExpired) {
		resp, err = d.get(ctx, op, target, r)
	}
	if err != nil {
		return nil, err
	}
	host, read := resp.Request.URL.Host, httpsource.Operation{Verb: "read", Origin: op.origin}
	skip, err := checkRange(resp, f.Size, offset)
	if err != nil {
		_ = resp.Body.Close()
		return nil, op.fail(fetcher.ErrTransient, fmt.Errorf("%s %w", host, err), "check that no proxy between here and the Hub changes its answers")
	}
	if skip > 0 {
		if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
			_ = resp.Body.Close()
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, read.Ended(ctx, read.Broken(host, err))
		}
	}
	return httpsource.NewBody(ctx, read, host, resp.Body, f.Size-offset), nil
}

// checkIdentity compares what the Hub says the file is with what was listed: a
// mirror may serve something else.
func checkIdentity(op operation, obj fetcher.Object, h http.Header) error {
	if commit := h.Get("X-Repo-Commit"); commit != "" && commit != obj.Revision {
		return op.fail(fetcher.ErrCorrupt, fmt.Errorf("the endpoint serves commit %s", plain(commit, "")), "do not trust this endpoint")
	}
	tag := h.Get("X-Linked-Etag")
	if tag == "" {
		tag = h.Get("ETag")
	}
	tag = strings.Trim(strings.TrimPrefix(tag, "W/"), `"`)
	want := obj.File.Digest
	// Only what has the digest's form is one: mirrors make ETags of their own.
	if fetcher.NewDigest(want.Algorithm(), tag).Check() == nil && want != "" && tag != want.Hex() {
		return op.fail(fetcher.ErrCorrupt, fmt.Errorf("the endpoint serves %s %s, it listed %s", want.Algorithm(), tag, want.Hex()), "do not trust this endpoint")
	}
	return nil
}

// checkRange makes sure that the body is the file from offset to its end, and
// returns how many bytes before that it begins.
func checkRange(resp *http.Response, size, offset int64) (skip int64, err error) {
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return 0, fmt.Errorf("answered with the encoding %q, which was not asked for", plain(encoding, ""))
	}
	want := size
	switch resp.StatusCode {
	case http.StatusPartialContent:
		got := resp.Header.Get("Content-Range")
		if got != fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size) && got != fmt.Sprintf("bytes %d-%d/*", offset, size-1) {
			return 0, fmt.Errorf("answered with the range %q of what should be %d bytes from %d", plain(got, ""), size, offset)
		}
		want = size - offset
	case http.StatusOK:
		if offset > maxSkip {
			return 0, fmt.Errorf("sends the whole file where %d bytes from %d were asked for", size-offset, offset)
		}
		skip = offset
	default:
		return 0, fmt.Errorf("answered %d", resp.StatusCode)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != want {
		return 0, fmt.Errorf("answered with %d bytes, not %d", resp.ContentLength, want)
	}
	return skip, nil
}
