package hf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// maxRedirects is how many hosts may pass a request on.
const maxRedirects = 5

// operation is what errors say was being done.
type operation struct {
	verb, origin, repo string
	// endpoint is the host that is asked first, file the path of the file that is
	// asked for; "" in a list.
	endpoint, file string
}

func (op operation) fail(kind, err error, hint string) *fetcher.Error {
	return &fetcher.Error{Kind: kind, Op: op.verb, Origin: op.origin, Err: err, Hint: hint}
}

// ended returns ctx's own error if ctx has ended, else err: a failure that the
// caller caused is of no kind.
func (op operation) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op.verb, op.origin, ctx.Err())
	}
	return err
}

// request is how one GET is sent.
type request struct {
	limit  string // which of the Hub's rate limits counts it
	accept string
	ranged string // Range header; empty: none
	// known is the ETag of the answer that the caller has: then 304 is an answer, too.
	known string
	// see looks at each answer of the Hub itself that is no failure, before a
	// redirect is followed.
	see func(http.Header) error
}

// errExpired is a signed address that the CDN refuses.
var errExpired = errors.New("the CDN refuses the signed address")

// get sends a GET to the endpoint and follows redirects. The answer is a 2xx, or a 304;
// everything else is an error of one kind. A 403 of another host also is
// errExpired. elsewhere is the address on another host that answered, if the Hub
// was asked first and never again: then whoever has it needs no token.
func (d *Driver) get(ctx context.Context, op operation, target *url.URL, r request) (resp *http.Response, elsewhere *url.URL, err error) {
	token, err := d.token()
	if err != nil {
		return nil, nil, op.fail(fetcher.ErrMisconfigured, err, "write the token on one line, as the Hub shows it")
	}
	d.secrets.Add(token)
	if e := d.spent(op, r.limit, token); e != nil {
		e.Quota.Held = true
		return nil, nil, e
	}
	away, back := false, false // from the Hub
	for range maxRedirects + 1 {
		own := sameOrigin(target, d.endpoint)
		away, back = away || !own, back || away && own
		resp, err := d.send(ctx, target, r, tokenFor(own, token))
		if err != nil {
			return nil, nil, op.unreached(ctx, target, err)
		}
		if own {
			d.limits.learn(r.limit, resp.StatusCode, resp.Header, time.Now(), share())
		}
		if resp.StatusCode >= http.StatusBadRequest || resp.StatusCode == http.StatusNotModified && r.known == "" {
			discard(resp)
			if own && resp.StatusCode == http.StatusTooManyRequests {
				if e := d.spent(op, r.limit, token); e != nil {
					e.Err, e.RetryAfter = answered(resp, token), max(e.RetryAfter, retryAfter(resp.Header))
					return nil, nil, e
				}
			}
			return nil, nil, classify(op, resp, own, token)
		}
		if own && r.see != nil {
			if err := r.see(resp.Header); err != nil {
				discard(resp)
				return nil, nil, err
			}
		}
		switch {
		case resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode != http.StatusNotModified:
		case !away || back:
			return resp, nil, nil
		default:
			return resp, target, nil
		}
		discard(resp)
		next, err := follow(target, resp.Header.Get("Location"))
		if err != nil {
			return nil, nil, op.misled(target, err)
		}
		target = next
	}
	return nil, nil, op.fail(fetcher.ErrTransient, fmt.Errorf("more than %d redirects", maxRedirects), "check the endpoint")
}

// spent is the refusal to ask while a quota is used up; nil: it is not.
func (d *Driver) spent(op operation, limit, token string) *fetcher.Error {
	wait, until := d.limits.left(limit, time.Now())
	if wait <= 0 {
		return nil
	}
	e := op.fail(fetcher.ErrThrottled, fmt.Errorf("the quota of %s at %s is used up until %s", requestsOf(limit), d.endpoint.Host, until.UTC().Format("15:04:05 UTC")), throttledHint(token))
	e.RetryAfter = wait
	e.Quota = fetcher.Quota{Host: d.endpoint.Host, Requests: requestsOf(limit), Until: until}
	return e
}

// ask sends a GET to an address on another host that get returned, without a token,
// and follows it nowhere. Answers that say that the address is no good any more are
// errExpired; the Hub knows a better one.
func (d *Driver) ask(ctx context.Context, op operation, address *url.URL, r request) (*http.Response, error) {
	resp, err := d.send(ctx, address, r, "")
	switch {
	case err != nil:
		return nil, op.unreached(ctx, address, err)
	case resp.StatusCode < http.StatusMultipleChoices:
		return resp, nil
	}
	discard(resp)
	if resp.StatusCode == http.StatusTooManyRequests || httpsource.Passing(resp.StatusCode) {
		return nil, classifyCDN(op, resp)
	}
	return nil, op.fail(fetcher.ErrTransient, fmt.Errorf("%w: %w", errExpired, answered(resp, "")), "try again later")
}

// unreached is a request that got no answer.
func (op operation) unreached(ctx context.Context, target *url.URL, err error) error {
	host := httpsource.Host(target)
	return op.ended(ctx, httpsource.Operation{Verb: op.verb, Origin: op.origin}.Unanswered("reach "+host, host, err))
}

// send makes one exchange. It goes to the transport itself, not through
// http.Client, whose errors show whole URLs and which would pass the token on
// to subdomains and other ports.
func (d *Driver) send(ctx context.Context, target *url.URL, r request, token string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, httpsource.NewCause("its address cannot be requested", nil) // err would show a signed URL
	}
	req.Header.Set("User-Agent", d.userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if r.ranged != "" {
		req.Header.Set("Range", r.ranged)
	}
	if r.known != "" {
		req.Header.Set("If-None-Match", r.known)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return d.transport.RoundTrip(req)
}

func tokenFor(own bool, token string) string {
	if own {
		return token
	}
	return ""
}

// sameOrigin compares scheme, host and port: what a token was meant for.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case strings.EqualFold(u.Scheme, "https"):
		return "443"
	}
	return "80"
}

// discard ends an answer whose body nobody wants; a short body is read, so
// that the connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 8<<10)
	_ = resp.Body.Close()
}

func checkNetwork(host string) string {
	return "check that this machine reaches " + host
}
