package gcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// Open implements [fetcher.Driver]. The object is asked for by its generation:
// once it was replaced, it is refused, unless the bucket keeps old generations.
func (d *Driver) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	f := obj.File
	op := httpsource.Operation{Verb: "open", Origin: f.Path + " of " + obj.Source.String()}
	generation, err := strconv.ParseInt(f.Version, 10, 64)
	outside := f.CheckRange(offset, length)
	switch {
	case ctx.Err() != nil:
		return nil, op.Ended(ctx, nil)
	case obj.Source.Scheme != fetcher.SchemeGCS || err != nil:
		return nil, op.Fail(fetcher.ErrRefused, errors.New("it is no listed object of a bucket"), "list the source first")
	case outside != nil:
		return nil, op.Fail(fetcher.ErrRefused, outside, "list the source again")
	case length == 0:
		return http.NoBody, nil
	}
	c, err := d.client(ctx, op)
	if err != nil {
		return nil, err
	}
	bucket, prefix := httpsource.Bucket(obj.Source)
	asked := length
	if offset+length == f.Size {
		asked = -1 // to the end
	}
	readCtx, try := withOneTry(httpsource.ForObject(ctx, f.Size, length))
	r, err := c.bucket(bucket).Object(prefix+f.Path).Generation(generation).NewRangeReader(readCtx, offset, asked)
	if err != nil {
		return nil, c.classify(ctx, op, err)
	}
	if r.Attrs.Decompressed {
		_ = r.Close()
		return nil, op.Fail(fetcher.ErrRefused, errors.New("it is stored with Content-Encoding: gzip, and would come as other bytes than its checksum is of"), "store it without an encoding")
	}
	if err := try.answered().Check(f.Size, offset, length); err != nil {
		_ = r.Close()
		return nil, op.Fail(httpsource.KindOfPart(err), fmt.Errorf("%s %w", c.host, err), "check that no proxy between here and the bucket changes its answers")
	}
	return httpsource.NewBody(ctx, op, c.host, &oneTryBody{ReadCloser: r, try: try}, length), nil
}

// oneTryBody tells why a body broke, where the client would ask for the rest of
// it by itself: the engine does that, and has to know.
type oneTryBody struct {
	io.ReadCloser
	try *oneTry
}

// Read implements io.Reader.
func (b *oneTryBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, errSecondTry) {
		err = b.try.failure()
	}
	return n, err
}
