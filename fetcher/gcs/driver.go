package gcs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"cloud.google.com/go/storage"
	"google.golang.org/api/iterator"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// Options adjust a [Driver].
type Options struct {
	// Transport carries the requests, for tokens too; nil: ones of
	// httpsource.NewTransportFor. It must not follow redirects (no RoundTripper
	// does) nor decompress.
	Transport http.RoundTripper
	// UserAgent is sent as it is; empty: "stoker".
	UserAgent string
	// Secrets takes all credentials that are read; nil: nobody hides them.
	Secrets *secrets.Set
	// PageSize is how many objects one answer lists at most; 0: the server's
	// own limit, 1000.
	PageSize int
	// Bounds are what answers may take.
	Bounds httpsource.Bounds
}

// Driver reads buckets. It implements [fetcher.Driver].
type Driver struct {
	access  fetcher.Access
	options Options // with all defaults
	tokens  http.RoundTripper
	clients clients
}

// New makes a driver that takes endpoint and credentials from access, and where
// that is silent from the environment. A bad endpoint is an error that shows it,
// less any password. Credentials are not looked at before they are used.
func New(access fetcher.Access, o Options) (*Driver, error) {
	if access.Endpoint != "" {
		u, err := httpsource.ParseEndpoint(access.Endpoint)
		if err != nil {
			return nil, err
		}
		access.Endpoint = u.String()
	}
	o.Bounds = o.Bounds.For(access)
	tokens := o.Transport
	if o.Transport == nil {
		trust := httpsource.TrustFor(access, "")
		o.Transport = httpsource.NewTransportFor(trust)
		// What is asked for tokens is sent secrets, and is not the server that access
		// speaks of.
		trust.Insecure = false
		tokens = httpsource.NewTransportFor(trust)
	}
	o.Transport = o.Bounds.Transport(o.Transport, httpsource.JSONPage)
	if o.UserAgent == "" {
		o.UserAgent = "stoker"
	}
	return &Driver{access: access, options: o, tokens: o.Bounds.Transport(tokens, httpsource.JSONPage)}, nil
}

// CloseIdleConnections closes the connections that the driver's transport
// keeps for the next request.
func (d *Driver) CloseIdleConnections() {
	for _, transport := range []http.RoundTripper{d.options.Transport, d.tokens} {
		if t, ok := transport.(interface{ CloseIdleConnections() }); ok {
			t.CloseIdleConnections()
		}
	}
}

// List implements [fetcher.Driver]: every object whose name begins with the
// prefix and a slash. Markers of empty folders (names that end in a slash,
// without content) are left out. A prefix without any object is refused, as a
// bucket is that is not there.
func (d *Driver) List(ctx context.Context, src fetcher.Source) (fetcher.Listing, error) {
	op := httpsource.Operation{Verb: "list", Origin: src.String()}
	if src.Scheme != fetcher.SchemeGCS {
		return fetcher.Listing{}, op.Fail(fetcher.ErrRefused, errors.New("it is no Google Cloud Storage bucket"), "write it as gs://BUCKET/PREFIX")
	}
	return d.options.Bounds.List(ctx, op, func(ctx context.Context) (fetcher.Listing, error) { return d.list(ctx, op, src) })
}

func (d *Driver) list(ctx context.Context, op httpsource.Operation, src fetcher.Source) (fetcher.Listing, error) {
	c, err := d.client(ctx, op)
	if err != nil {
		return fetcher.Listing{}, err
	}
	files, err := d.objects(ctx, c, op, src, "")
	if err != nil {
		return fetcher.Listing{}, err
	}
	if len(files) > 0 {
		return fetcher.Listing{Revision: httpsource.Revision(files), Files: files}, nil
	}
	if folder, name, ok := httpsource.Object(src); ok {
		if files, err = d.objects(ctx, c, op, folder, name); err != nil {
			return fetcher.Listing{}, err
		}
		if l := httpsource.Only(files, folder, name); len(l.Files) > 0 {
			return l, nil
		}
	}
	return fetcher.Listing{}, op.Fail(fetcher.ErrRefused, errors.New("no object is there"), "check the spelling; PREFIX names a folder or one object, without wildcards")
}

// objects lists what is below folder as files; with a name only the first object whose
// name begins so: a list begins with the name that is all of its prefix.
func (d *Driver) objects(ctx context.Context, c *client, op httpsource.Operation, folder fetcher.Source, name string) ([]fetcher.File, error) {
	bucket, prefix := httpsource.Bucket(folder)
	query := &storage.Query{Prefix: prefix + name, Projection: storage.ProjectionNoACL}
	if err := query.SetAttrSelection([]string{"Name", "Size", "Generation", "CRC32C", "MD5"}); err != nil {
		return nil, op.Fail(fetcher.ErrRefused, err, "report this")
	}
	var files httpsource.Files
	objects := c.bucket(bucket).Objects(withPages(ctx, &files), query)
	objects.PageInfo().MaxSize = d.options.PageSize
	for {
		attrs, err := next(objects)
		if errors.Is(err, iterator.Done) {
			return files.All(), nil
		}
		if err != nil {
			return nil, c.classify(ctx, op, err)
		}
		path, isFile, err := httpsource.PathOf(attrs.Name, prefix, attrs.Size)
		if err != nil {
			return nil, op.Fail(fetcher.ErrCorrupt, err, "do not trust this endpoint")
		}
		if isFile {
			err = files.Add(fetcher.File{Path: path, Size: attrs.Size, Digest: vouched(attrs), Version: strconv.FormatInt(attrs.Generation, 10)})
		} else {
			err = files.Skip()
		}
		if err != nil {
			return nil, op.Exceeded(err)
		}
		if name != "" {
			return files.All(), nil
		}
	}
}

// errNoList is an answer that is JSON and no list of objects.
var errNoList = errors.New("the answer is no list of objects")

// next is Next, which dereferences the null of an answer that is null, and returns the
// nil of an entry that is null: with neither may a server end the process.
func next(objects *storage.ObjectIterator) (attrs *storage.ObjectAttrs, err error) {
	defer func() {
		if recover() != nil {
			err = errNoList
		}
	}()
	if attrs, err = objects.Next(); err == nil && attrs == nil {
		err = errNoList
	}
	return attrs, err
}

// vouched is what the list states of an object's content. Every object has a
// CRC32C, which costs nothing to compute; the MD5, which composite objects lack,
// is slower than a network, and stands in only where an emulator states no CRC32C
// (the client says 0 then, which is right for what is empty).
func vouched(attrs *storage.ObjectAttrs) fetcher.Digest {
	if attrs.CRC32C != 0 || attrs.Size == 0 {
		return fetcher.NewDigest(fetcher.CRC32C, fmt.Sprintf("%08x", attrs.CRC32C))
	}
	if d := fetcher.NewDigest(fetcher.MD5, hex.EncodeToString(attrs.MD5)); d.Check() == nil {
		return d
	}
	return ""
}
