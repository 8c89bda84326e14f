package gcs

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"cloud.google.com/go/auth"

	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// authorized adds a token and our name to requests for one host, and lets an
// operation that has oneTry in its context ask once.
type authorized struct {
	base        http.RoundTripper
	credentials *auth.Credentials // nil: none
	secrets     *secrets.Set
	// scheme and host are what the token is meant for.
	scheme, host string
	userAgent    string
}

// credentialsError is a token that could not be had.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "get a token: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// RoundTrip implements http.RoundTripper.
func (a *authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	try, _ := ctx.Value(oneTryKey{}).(*oneTry)
	if try != nil && !try.begin() {
		return nil, errSecondTry
	}
	if req.URL.Scheme != a.scheme || !strings.EqualFold(req.URL.Host, a.host) {
		return nil, httpsource.NewCause("a request for another host than "+a.host, nil)
	}
	if files, ok := ctx.Value(pagesKey{}).(*httpsource.Files); ok {
		if err := files.Page(req.URL.Query().Get("pageToken")); err != nil {
			return nil, err
		}
	}
	req = req.Clone(ctx) // a RoundTripper must not change what it was given
	req.Header.Set("User-Agent", a.userAgent)
	if a.credentials != nil {
		token, err := a.credentials.Token(ctx)
		if err != nil {
			return nil, &credentialsError{err}
		}
		a.secrets.Add(token.Value)
		req.Header.Set("Authorization", "Bearer "+token.Value)
		if project, err := a.credentials.QuotaProjectID(ctx); err == nil && project != "" {
			req.Header.Set("X-Goog-User-Project", project)
		}
	}
	resp, err := a.base.RoundTrip(req)
	if err == nil && try != nil {
		try.note(resp)
		resp.Body = &watchedBody{resp.Body, try}
	}
	return resp, err
}

// pagesKey is where a listing's files are in its context.
type pagesKey struct{}

// withPages has each request of a listing begin a page of files: the client asks
// for further pages by itself, without an end as long as they are empty.
func withPages(ctx context.Context, files *httpsource.Files) context.Context {
	return context.WithValue(ctx, pagesKey{}, files)
}

// oneTry is a transfer that asks once: a storage.Reader whose body breaks asks
// for the rest by itself, with all its settings for retries off.
type oneTry struct {
	mu    sync.Mutex
	begun bool
	part  httpsource.Part
	err   error
}

type oneTryKey struct{}

// errSecondTry refuses what the client would try by itself.
var errSecondTry = errors.New("asked for a second time")

func withOneTry(ctx context.Context) (context.Context, *oneTry) {
	try := &oneTry{}
	return context.WithValue(ctx, oneTryKey{}, try), try
}

func (t *oneTry) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.begun
	t.begun = true
	return first
}

// note keeps what the answer says of its body: a storage.Reader tells only some
// of it.
func (t *oneTry) note(resp *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = httpsource.Part{Status: resp.StatusCode, Range: resp.Header.Get("Content-Range"), Length: resp.ContentLength}
}

func (t *oneTry) answered() httpsource.Part {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.part
}

// failure is how the first try's body broke.
func (t *oneTry) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		return io.ErrUnexpectedEOF
	}
	return t.err
}

// watchedBody remembers how it broke.
type watchedBody struct {
	io.ReadCloser
	try *oneTry
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.try.mu.Lock()
		b.try.err = err
		b.try.mu.Unlock()
	}
	return n, err
}
