package hf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// DefaultEndpoint is the public Hub.
const DefaultEndpoint = "https://huggingface.co"

// Options adjust a [Driver]; the zero value reads the public Hub without a
// token.
type Options struct {
	// Endpoint replaces DefaultEndpoint: a mirror, http or https, with a path
	// if need be. It must not contain credentials.
	Endpoint string
	// Token returns the token to send, or "" to send none. It is asked for at
	// every request, so that a rotated token takes effect. Nil: no token.
	Token func() (string, error)
	// Transport carries the requests; nil: one of httpsource.NewTransport. It
	// must not follow redirects (no RoundTripper does) nor decompress.
	Transport http.RoundTripper
	// UserAgent is sent as it is; empty: "stoker".
	UserAgent string
	// Secrets takes every token that is read; nil: nobody hides them.
	Secrets *secrets.Set
	// Bounds are what answers may take.
	Bounds httpsource.Bounds
}

// Driver reads models from one Hub. It implements [fetcher.Resolver].
type Driver struct {
	endpoint  *url.URL // without a slash at the end of its path
	token     func() (string, error)
	transport http.RoundTripper
	userAgent string
	secrets   *secrets.Set
	bounds    httpsource.Bounds
	limits    limits
	addresses addresses
	lookedUp  lookedUp
}

// New makes a driver; a bad endpoint is an error that shows it, less any
// password.
func New(o Options) (*Driver, error) {
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	endpoint, err := parseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	d := &Driver{endpoint: endpoint, token: o.Token, transport: o.Transport, userAgent: o.UserAgent, secrets: o.Secrets, addresses: addresses{limit: maxAddresses}}
	if d.token == nil {
		d.token = func() (string, error) { return "", nil }
	}
	if d.transport == nil {
		d.transport = httpsource.NewTransport()
	}
	o.Bounds.AnswerBytes = cmp.Or(o.Bounds.AnswerBytes, maxPage)
	d.bounds = o.Bounds.OrDefaults()
	d.transport = d.bounds.Transport(d.transport, httpsource.AnyShape)
	if d.userAgent == "" {
		d.userAgent = "stoker"
	}
	return d, nil
}

func parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(strings.TrimSpace(s), "/"))
	if err != nil {
		return nil, errors.New("the Hub's endpoint is no URL; write it as https://HOST") // err would show what may be a password
	}
	if u.User != nil {
		return nil, fmt.Errorf("the Hub's endpoint at %s contains credentials; give a token instead", httpsource.Host(u))
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the Hub's endpoint %q is no address; write it as https://HOST", httpsource.Address(u))
	}
	return u, nil
}

// CloseIdleConnections closes the connections that the driver's transport
// keeps for the next request.
func (d *Driver) CloseIdleConnections() {
	if t, ok := d.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// List implements [fetcher.Driver]. A source without a revision means main. A
// full commit id is not looked up: it is its own revision.
func (d *Driver) List(ctx context.Context, src fetcher.Source) (fetcher.Listing, error) {
	op := operation{verb: "list", origin: src.String(), repo: src.Path, endpoint: d.endpoint.Host}
	if src.Scheme != fetcher.SchemeHub {
		return fetcher.Listing{}, op.fail(fetcher.ErrRefused, errors.New("it is no Hub repository"), "write it as hf://[ORG/]NAME")
	}
	bounded := httpsource.Operation{Verb: op.verb, Origin: op.origin}
	return d.bounds.List(ctx, bounded, func(ctx context.Context) (fetcher.Listing, error) { return d.list(ctx, op, src) })
}

func (d *Driver) list(ctx context.Context, op operation, src fetcher.Source) (fetcher.Listing, error) {
	commit := src.Revision
	if !fetcher.IsCommit(commit) {
		var err error
		if commit, err = d.lookUp(ctx, op, src); err != nil {
			return fetcher.Listing{}, err
		}
	}
	files, err := d.tree(ctx, op, src.Path, commit)
	if none := (noTree{}); errors.As(err, &none) {
		files, err = d.siblings(ctx, op, src.Path, commit, none.error)
	}
	if err != nil {
		return fetcher.Listing{}, err
	}
	return fetcher.Listing{Revision: commit, Files: files}, nil
}

// url makes a URL of the endpoint from an escaped path.
func (d *Driver) url(escapedPath string) *url.URL {
	u := *d.endpoint
	u.RawPath = u.EscapedPath() + escapedPath
	if plain, err := url.PathUnescape(u.RawPath); err == nil {
		u.Path = plain
	} else { // cannot be: all parts are escaped by us
		u.Path, u.RawPath = u.RawPath, ""
	}
	return &u
}

// escapePath escapes a file's path segment by segment.
func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
