package s3

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// lister is one way to ask for a list.
type lister struct {
	// v1 is ListObjects, which every server knows; else ListObjectsV2.
	v1 bool
	// encoded asks for encoded keys: XML has no way to write some characters that
	// keys may have.
	encoded bool
}

// listers are the ways to list, the best first.
func listers() []lister { return []lister{{encoded: true}, {v1: true, encoded: true}, {v1: true}} }

// page is one answer of a list.
type page struct {
	objects   []types.Object
	encoding  types.EncodingType
	truncated bool
	next      string // what the next one is asked for by, where the answer says so
}

// errNoNext is a list that is cut off and does not say where: what a server answers
// that takes ListObjectsV2 for ListObjects.
var errNoNext = errors.New("the list ends and does not say where the rest begins")

// list lists a bucket in the first way that the server knows.
func (d *Driver) list(ctx context.Context, op httpsource.Operation, src fetcher.Source) (fetcher.Listing, error) {
	bucket, prefix := httpsource.Bucket(src)
	c, err := d.client(ctx, op, bucket)
	if err != nil {
		return fetcher.Listing{}, err
	}
	ways := listers()
	for way := c.listing.Load(); ; way++ {
		files, err := d.listBy(ctx, c, op, ways[way], bucket, prefix)
		switch {
		case err == nil && len(files) == 0:
			return d.object(ctx, c, op, ways[way], bucket, src)
		case err == nil:
			c.listing.Store(way)
			return fetcher.Listing{Revision: httpsource.Revision(files), Files: files}, nil
		}
		var bad *fetcher.Error
		switch {
		case errors.As(err, &bad): // of what was listed
			return fetcher.Listing{}, bad
		case int(way) == len(ways)-1, !refusesList(err) && !errors.Is(err, errNoNext):
			return fetcher.Listing{}, c.classify(ctx, op, err)
		}
	}
}

// object lists a source that is one object, or refuses what is neither that nor a
// folder. A list begins with the name that is all of its prefix.
func (d *Driver) object(ctx context.Context, c *client, op httpsource.Operation, by lister, bucket string, src fetcher.Source) (fetcher.Listing, error) {
	var files httpsource.Files
	folder, name, ok := httpsource.Object(src)
	if ok {
		_, prefix := httpsource.Bucket(folder)
		got, err := d.page(ctx, c, by, bucket, prefix+name, "")
		if err != nil {
			return fetcher.Listing{}, c.classify(ctx, op, err)
		}
		got.objects = got.objects[:min(1, len(got.objects))]
		if _, err := describe(op, &files, got, prefix); err != nil {
			return fetcher.Listing{}, err
		}
	}
	l := httpsource.Only(files.All(), folder, name)
	if len(l.Files) == 0 {
		return fetcher.Listing{}, op.Fail(fetcher.ErrRefused, errors.New("no object is there"), "check the spelling; PREFIX names a folder or one object, without wildcards")
	}
	return l, nil
}

// listBy lists a bucket in one way. Errors of requests are the SDK's.
func (d *Driver) listBy(ctx context.Context, c *client, op httpsource.Operation, by lister, bucket, prefix string) ([]fetcher.File, error) {
	var files httpsource.Files
	for after := ""; ; {
		if err := files.Page(after); err != nil {
			return nil, op.Exceeded(err)
		}
		got, err := d.page(ctx, c, by, bucket, prefix, after)
		if err != nil {
			return nil, err
		}
		last, err := describe(op, &files, got, prefix)
		if err != nil {
			return nil, err
		}
		if !got.truncated {
			return files.All(), nil
		}
		if after = got.next; after == "" && by.v1 {
			after = last // with no delimiter, ListObjects need not name it
		}
		switch {
		case after == "" && by.v1:
			return nil, op.Fail(fetcher.ErrTransient, fmt.Errorf("%w, after %d files", errNoNext, len(files.All())), "check that the endpoint is an S3 server")
		case after == "":
			return nil, errNoNext
		}
	}
}

// page asks for one answer. after is "" for the first.
func (d *Driver) page(ctx context.Context, c *client, by lister, bucket, prefix, after string) (page, error) {
	var encoding types.EncodingType
	if by.encoded {
		encoding = types.EncodingTypeUrl
	}
	given := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	var keys *int32
	if d.options.PageSize > 0 {
		keys = &d.options.PageSize
	}
	if by.v1 {
		out, err := ask(c, bucket, func(o func(*s3.Options)) (*s3.ListObjectsOutput, error) {
			return c.ListObjects(ctx, &s3.ListObjectsInput{
				Bucket: &bucket, Prefix: given(prefix), Marker: given(after), MaxKeys: keys, EncodingType: encoding, RequestPayer: c.payer,
			}, o)
		})
		if err != nil {
			return page{}, err
		}
		next, _ := decoded(aws.ToString(out.NextMarker), out.EncodingType) // a wrong one lists something twice
		return page{out.Contents, out.EncodingType, aws.ToBool(out.IsTruncated), next}, nil
	}
	out, err := ask(c, bucket, func(o func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
		return c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
			Bucket: &bucket, Prefix: given(prefix), ContinuationToken: given(after), MaxKeys: keys, EncodingType: encoding, RequestPayer: c.payer,
		}, o)
	})
	if err != nil {
		return page{}, err
	}
	return page{out.Contents, out.EncodingType, aws.ToBool(out.IsTruncated), aws.ToString(out.NextContinuationToken)}, nil
}

// decoded is a key as it is, of one as it is listed.
func decoded(key string, encoding types.EncodingType) (string, error) {
	if encoding != types.EncodingTypeUrl {
		return key, nil
	}
	plain, err := url.QueryUnescape(key) // as forms are: a plus is a space
	if err != nil {
		return "", errors.New("a key is not encoded as it says")
	}
	return plain, nil
}

// describe adds the files of one page, and returns its last key.
func describe(op httpsource.Operation, files *httpsource.Files, p page, prefix string) (last string, err error) {
	distrust := func(err error) (string, error) {
		return "", op.Fail(fetcher.ErrCorrupt, err, "do not trust this endpoint")
	}
	for _, o := range p.objects {
		key, err := decoded(aws.ToString(o.Key), p.encoding)
		if err != nil {
			return distrust(err)
		}
		last = key
		path, isFile, err := httpsource.PathOf(key, prefix, aws.ToInt64(o.Size))
		if err != nil {
			return distrust(err)
		}
		if !isFile {
			if err := files.Skip(); err != nil {
				return "", op.Exceeded(err)
			}
			continue
		}
		if err := files.Add(described(op, o, path)); err != nil {
			return "", op.Exceeded(err)
		}
	}
	return last, nil
}

// described is the file that an object is, or why it can be none: who does not choose
// it need not care.
func described(op httpsource.Operation, o types.Object, path string) fetcher.File {
	f := fetcher.File{Path: path, Size: aws.ToInt64(o.Size)}
	if strings.ContainsFunc(aws.ToString(o.ETag), unicode.IsControl) {
		f.Unusable = op.Fail(fetcher.ErrCorrupt, fmt.Errorf("%s has an ETag with control characters", path), "do not trust this endpoint")
		return f
	}
	if f.Version = versionOf(o); f.Version == "" {
		f.Unusable = op.Fail(fetcher.ErrRefused, fmt.Errorf("%s has neither ETag nor time of its last change: a change under the transfer would go unseen", path), "let the server list ETags, or exclude it")
	}
	return f
}
