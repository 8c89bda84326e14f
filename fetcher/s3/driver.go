package s3

import (
	"context"
	"errors"
	"net/http"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// Options adjust a [Driver].
type Options struct {
	// Transport carries the requests for objects; nil: one of
	// httpsource.NewTransportFor. It must not follow redirects (no RoundTripper
	// does) nor decompress.
	Transport http.RoundTripper
	// UserAgent is added to the SDK's own, as NAME/VERSION; empty: "stoker".
	UserAgent string
	// Secrets takes all credentials that are read; nil: nobody hides them.
	Secrets *secrets.Set
	// PageSize is how many objects one answer lists at most; 0: the server's
	// own limit, 1000.
	PageSize int32
	// Bounds are what answers may take.
	Bounds httpsource.Bounds
}

// Driver reads buckets. It implements [fetcher.Voucher].
type Driver struct {
	access  fetcher.Access
	options Options // with all defaults
	trust   httpsource.Trust
	own     *httpsource.Transport // nil: the options' own
	clients clients
}

// New makes a driver that takes endpoint and credentials from access, and where
// that is silent from the environment, as the AWS SDK does. A bad endpoint is an
// error that shows it, less any password. Credentials are not looked at before
// they are used.
func New(access fetcher.Access, o Options) (*Driver, error) {
	if access.Endpoint != "" {
		u, err := httpsource.ParseEndpoint(access.Endpoint)
		if err != nil {
			return nil, err
		}
		access.Endpoint = u.String()
	}
	d := &Driver{access: access, trust: httpsource.TrustFor(access, "AWS_CA_BUNDLE")}
	if o.Transport == nil {
		d.own = httpsource.NewTransportFor(d.trust)
		o.Transport = d.own
	}
	o.Bounds = o.Bounds.For(access)
	o.Transport = o.Bounds.Transport(o.Transport, httpsource.XMLPage)
	if o.UserAgent == "" {
		o.UserAgent = "stoker"
	}
	d.options = o
	return d, nil
}

// CloseIdleConnections closes the connections that the driver's transport
// keeps for the next request.
func (d *Driver) CloseIdleConnections() {
	if t, ok := d.options.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// List implements [fetcher.Driver]: every object whose key begins with the
// prefix and a slash. Markers of empty folders (keys that end in a slash, without
// content) are left out. A prefix without any object is refused, as a bucket is
// that is not there.
func (d *Driver) List(ctx context.Context, src fetcher.Source) (fetcher.Listing, error) {
	op := httpsource.Operation{Verb: "list", Origin: src.String()}
	if src.Scheme != fetcher.SchemeS3 {
		return fetcher.Listing{}, op.Fail(fetcher.ErrRefused, errors.New("it is no S3 bucket"), "write it as s3://BUCKET/PREFIX")
	}
	return d.options.Bounds.List(ctx, op, func(ctx context.Context) (fetcher.Listing, error) { return d.list(ctx, op, src) })
}
