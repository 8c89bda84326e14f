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

// Open implements [fetcher.Driver]. The address of a file on another host is asked
// for once, by one of those who want it, and remembered until that host refuses it;
// then it is asked for once more.
func (d *Driver) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	f := obj.File
	op := operation{
		verb: "open", origin: f.Path + " of " + obj.Source.WithoutRevision() + "@" + obj.Revision, repo: obj.Source.Path, endpoint: d.endpoint.Host, file: f.Path,
	}
	outside := f.CheckRange(offset, length)
	switch {
	case ctx.Err() != nil:
		return nil, op.ended(ctx, nil)
	case obj.Source.Scheme != fetcher.SchemeHub || !fetcher.IsCommit(obj.Revision):
		return nil, op.fail(fetcher.ErrRefused, errors.New("it is no file of a commit on the Hub"), "list the source first")
	case outside != nil:
		return nil, op.fail(fetcher.ErrRefused, outside, "list the source again")
	case length == 0:
		return http.NoBody, nil
	}
	r := request{
		limit:  limitResolves,
		ranged: httpsource.Range(f.Size, offset, length), // from 0 as well: above 50 GB the CDN wants one
		see:    func(h http.Header) error { return checkIdentity(op, obj, h) },
	}
	key := fileKey{obj.Source.Path, obj.Revision, f.Path, f.Digest}
	resp, err := d.fetch(httpsource.ForObject(ctx, f.Size, length), op, key, r)
	if err != nil {
		return nil, err
	}
	host, read := httpsource.Host(resp.Request.URL), httpsource.Operation{Verb: "read", Origin: op.origin}
	skip, err := checkRange(resp, f.Size, offset, length)
	if err != nil {
		_ = resp.Body.Close()
		d.addresses.forget(key, resp.Request.URL)
		return nil, op.fail(httpsource.KindOfPart(err), fmt.Errorf("%s %w", host, err), "check that no proxy between here and the Hub changes its answers")
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
	body := resp.Body
	if resp.StatusCode == http.StatusOK && offset+length < f.Size {
		body = &front{io.LimitReader(resp.Body, length), resp.Body}
	}
	return httpsource.NewBody(ctx, read, host, body, length), nil
}

// fetch asks for a file where it is known to be, else at the Hub. It fails after two
// addresses in a row were refused, the last of them fresh from the Hub.
func (d *Driver) fetch(ctx context.Context, op operation, key fileKey, r request) (*http.Response, error) {
	resolve := d.url("/" + key.repo + "/resolve/" + key.commit + "/" + escapePath(key.path))
	for try, fresh := 1, 0; ; try++ {
		at, settle := d.addresses.find(ctx, key)
		// Where addresses are good for one use each, only an own one helps.
		if at != nil && try <= 2 {
			resp, err := d.ask(ctx, op, at, r)
			if err == nil || ctx.Err() != nil || errors.Is(err, fetcher.ErrThrottled) {
				return resp, err
			}
			// Also if this may pass: the Hub may name a host that fares better.
			d.addresses.forget(key, at)
			if !errors.Is(err, errExpired) {
				return nil, err
			}
			continue
		}
		resp, elsewhere, err := d.get(ctx, op, resolve, r)
		switch {
		case settle != nil:
			settle(elsewhere, err)
		case err == nil:
			d.addresses.learn(key, elsewhere)
		}
		if !errors.Is(err, errExpired) {
			return resp, err
		}
		if fresh++; fresh > 1 {
			return nil, op.storageRefuses(err)
		}
		if try > 1 {
			return nil, err
		}
	}
}

// front is the beginning of a body of which no more is wanted: its end is not
// waited for.
type front struct {
	io.Reader
	io.Closer
}

// checkIdentity compares what the Hub says the file is with what was listed: a
// mirror may serve something else. X-Linked-Etag names a large file's sha256. An ETag
// is a validator and no more: caches make it of the content's SHA-1 or MD5, the Hub
// itself sends Xet's hash in it, and the bytes are held against the digest anyway.
func checkIdentity(op operation, obj fetcher.Object, h http.Header) error {
	if commit := h.Get("X-Repo-Commit"); fetcher.IsCommit(commit) && commit != obj.Revision {
		return op.fail(fetcher.ErrCorrupt, errors.New("the endpoint serves another commit"), "do not trust this endpoint")
	}
	linked := fetcher.NewDigest(fetcher.SHA256, strings.Trim(strings.TrimPrefix(h.Get("X-Linked-Etag"), "W/"), `"`))
	if want := obj.File.Digest; want.Algorithm() == fetcher.SHA256 && linked.Check() == nil && linked != want {
		return op.fail(fetcher.ErrCorrupt, fmt.Errorf("the endpoint serves sha256 %s, it listed %s", linked.Hex(), want.Hex()), "do not trust this endpoint")
	}
	return nil
}

// checkRange makes sure that the body is length bytes of the file from offset, or
// the whole file if offset is near its beginning; it returns how many bytes before
// offset the body begins.
func checkRange(resp *http.Response, size, offset, length int64) (skip int64, err error) {
	part := httpsource.Part{
		Status: resp.StatusCode, Range: resp.Header.Get("Content-Range"), Length: resp.ContentLength,
	}
	if resp.StatusCode == http.StatusOK && offset <= maxSkip {
		return offset, part.Check(size, 0, size)
	}
	return 0, part.Check(size, offset, length)
}
