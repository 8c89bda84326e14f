package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithymiddleware "github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// Open implements [fetcher.Driver]. The object is asked for by its ETag: once it
// was replaced, it is refused.
func (d *Driver) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	f := obj.File
	op := httpsource.Operation{Verb: "open", Origin: f.Path + " of " + obj.Source.String()}
	if err := d.check(ctx, op, obj, offset, length); err != nil {
		return nil, err
	}
	if length == 0 {
		return http.NoBody, nil
	}
	bucket, prefix := httpsource.Bucket(obj.Source)
	c, err := d.client(ctx, op, bucket)
	if err != nil {
		return nil, err
	}
	out, err := c.get(httpsource.ForObject(ctx, f.Size, length), &s3.GetObjectInput{
		Bucket: aws.String(bucket), Key: aws.String(prefix + f.Path),
		Range: aws.String(httpsource.Range(f.Size, offset, length)), RequestPayer: c.payer,
	}, f.Version)
	if err != nil {
		return nil, c.classify(ctx, op, err)
	}
	host, status := answerer(out.ResultMetadata)
	part := httpsource.Part{Status: status, Range: aws.ToString(out.ContentRange), Length: -1}
	if out.ContentLength != nil {
		part.Length = *out.ContentLength
	}
	unchanged := func() error {
		_, err := c.stated(ctx, op, obj)
		return err
	}
	if err := part.Check(f.Size, offset, length); err != nil {
		_ = out.Body.Close()
		if !isETag(f.Version) {
			if err := unchanged(); err != nil { // of another size, then
				return nil, err
			}
		}
		return nil, op.Fail(httpsource.KindOfPart(err), fmt.Errorf("%s %w", host, err), "check that no proxy between here and the bucket changes its answers")
	}
	if err := sameVersion(f.Version, out.ETag, out.LastModified); err != nil {
		_ = out.Body.Close()
		return nil, otherVersion(op, fmt.Errorf("%s %w", host, err))
	}
	body := httpsource.NewBody(ctx, op, host, out.Body, length)
	if isETag(f.Version) {
		return body, nil
	}
	return &unpinned{ReadCloser: body, unchanged: unchanged}, nil
}

// unpinned is the body of an object that only its time tells from another: the server
// may change it while it sends it. It ends without an error only if the object is
// still the listed one.
type unpinned struct {
	io.ReadCloser
	unchanged func() error
	done      bool // it was looked at, after the last byte that there was
}

// Read implements io.Reader.
func (u *unpinned) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err == nil || u.done {
		return n, err
	}
	u.done = true
	changed := u.unchanged()
	if errors.Is(err, io.EOF) && changed != nil || errors.Is(changed, fetcher.ErrRefused) {
		return n, changed // a server whose file shrinks breaks off
	}
	return n, err
}

// Close implements io.Closer. Who stops before the end hears now whether the object is
// still the listed one.
func (u *unpinned) Close() error {
	var err error
	if !u.done {
		err = u.unchanged()
	}
	return errors.Join(err, u.ReadCloser.Close())
}

// get asks for an object on the condition that it is this version. A server that
// finds another, or does not know conditions, is asked once more without: some compare
// If-Match otherwise than they write ETags. The answer's own ETag decides then.
func (c *client) get(ctx context.Context, in *s3.GetObjectInput, version string) (*s3.GetObjectOutput, error) {
	conditional := isETag(version) && !c.noIfMatch.Load()
	if conditional {
		in.IfMatch = aws.String(version)
	}
	call := func(o func(*s3.Options)) (*s3.GetObjectOutput, error) { return c.GetObject(ctx, in, o) }
	out, err := ask(c, *in.Bucket, call)
	if !conditional || !unmet(err) && !refusesQuestion(err) {
		return out, err
	}
	in.IfMatch = nil
	if out, err = ask(c, *in.Bucket, call); err == nil && quoted(out.ETag) == version {
		c.noIfMatch.Store(true)
	}
	return out, err
}

// check refuses what can be no object of a listing.
func (d *Driver) check(ctx context.Context, op httpsource.Operation, obj fetcher.Object, offset, length int64) error {
	switch {
	case ctx.Err() != nil:
		return op.Ended(ctx, nil)
	case obj.Source.Scheme != fetcher.SchemeS3 || obj.File.Version == "":
		return op.Fail(fetcher.ErrRefused, errors.New("it is no listed object of a bucket"), "list the source first")
	}
	if err := obj.File.CheckRange(offset, length); err != nil {
		return op.Fail(fetcher.ErrRefused, err, "list the source again")
	}
	return nil
}

// otherVersion is an answer that sameVersion does not take.
func otherVersion(op httpsource.Operation, err error) error {
	if errors.Is(err, errNoValidator) {
		return op.Fail(fetcher.ErrRefused, err, "let the server, and what stands before it, give objects the same ETags as its lists do")
	}
	return changed(op, err)
}

func changed(op httpsource.Operation, err error) error {
	return op.Fail(fetcher.ErrRefused, fmt.Errorf("the object was replaced since it was listed: %w", err), "let nothing write to the bucket while it is read, and pull again")
}

// answerer is who answered an operation, and with which status.
func answerer(m smithymiddleware.Metadata) (host string, status int) {
	resp, ok := awsmiddleware.GetRawResponse(m).(*smithyhttp.Response)
	if !ok || resp == nil || resp.Response == nil {
		return "the server", 0
	}
	return hostOf(resp), resp.StatusCode
}

func hostOf(resp *smithyhttp.Response) string {
	if resp.Request == nil || resp.Request.URL == nil {
		return "the server"
	}
	return httpsource.Host(resp.Request.URL)
}
