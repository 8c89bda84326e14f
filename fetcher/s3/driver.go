package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/secrets"
)

// Options adjust a [Driver].
type Options struct {
	// Transport carries the requests for objects; nil: one of
	// httpsource.NewTransport. It must not follow redirects (no RoundTripper
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
	if o.Transport == nil {
		o.Transport = httpsource.NewTransport()
	}
	o.Bounds = o.Bounds.For(access)
	o.Transport = o.Bounds.Transport(o.Transport, httpsource.XMLPage)
	if o.UserAgent == "" {
		o.UserAgent = "stoker"
	}
	return &Driver{access: access, options: o}, nil
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

func (d *Driver) list(ctx context.Context, op httpsource.Operation, src fetcher.Source) (fetcher.Listing, error) {
	client, err := d.client(ctx, op)
	if err != nil {
		return fetcher.Listing{}, err
	}
	bucket, prefix := httpsource.Bucket(src)
	in := &s3.ListObjectsV2Input{
		Bucket: aws.String(bucket),
		// XML has no way to write some characters that keys may have.
		EncodingType: types.EncodingTypeUrl,
	}
	if prefix != "" {
		in.Prefix = aws.String(prefix)
	}
	if d.options.PageSize > 0 {
		in.MaxKeys = aws.Int32(d.options.PageSize)
	}
	var files httpsource.Files
	for {
		if err := files.Page(aws.ToString(in.ContinuationToken)); err != nil {
			return fetcher.Listing{}, op.Exceeded(err)
		}
		out, err := client.ListObjectsV2(ctx, in)
		if err != nil {
			return fetcher.Listing{}, classify(ctx, op, err)
		}
		if err := describe(op, &files, out, prefix); err != nil {
			return fetcher.Listing{}, err
		}
		if !aws.ToBool(out.IsTruncated) {
			break
		}
		next := aws.ToString(out.NextContinuationToken)
		if next == "" {
			return fetcher.Listing{}, op.Fail(fetcher.ErrTransient, fmt.Errorf("the list ends after %d files and says that there are more", len(files.All())), "check that the endpoint is an S3 server")
		}
		in.ContinuationToken = aws.String(next)
	}
	if len(files.All()) == 0 {
		return fetcher.Listing{}, op.Fail(fetcher.ErrRefused, errors.New("no object is there"), "check the spelling; PREFIX names a folder, without wildcards")
	}
	return fetcher.Listing{Revision: httpsource.Revision(files.All()), Files: files.All()}, nil
}

// describe adds the files of one page.
func describe(op httpsource.Operation, files *httpsource.Files, out *s3.ListObjectsV2Output, prefix string) error {
	distrust := func(err error) error {
		return op.Fail(fetcher.ErrCorrupt, err, "do not trust this endpoint")
	}
	for _, o := range out.Contents {
		key := aws.ToString(o.Key)
		if out.EncodingType == types.EncodingTypeUrl {
			plain, err := url.QueryUnescape(key) // as forms are: a plus is a space
			if err != nil {
				return distrust(errors.New("a key is not encoded as it says"))
			}
			key = plain
		}
		path, isFile, err := httpsource.PathOf(key, prefix, aws.ToInt64(o.Size))
		if err != nil {
			return distrust(err)
		}
		if !isFile {
			if err := files.Skip(); err != nil {
				return op.Exceeded(err)
			}
			continue
		}
		etag := aws.ToString(o.ETag)
		if etag == "" {
			return op.Fail(fetcher.ErrRefused, fmt.Errorf("%s has no ETag: a change under the transfer would go unseen", path), "let the server give its objects ETags; copying an object onto itself may do that")
		}
		if strings.ContainsFunc(etag, unicode.IsControl) {
			return distrust(fmt.Errorf("%s has an ETag with control characters", path))
		}
		if err := files.Add(fetcher.File{Path: path, Size: aws.ToInt64(o.Size), Version: etag}); err != nil {
			return op.Exceeded(err)
		}
	}
	return nil
}
