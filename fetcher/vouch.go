package fetcher

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/stoker-project/stoker/fetcher/store"
)

// vouch fills in the digests of the chosen files, where the driver has to be
// asked for each. What is published already is not asked for again. failing hears why a request is made again.
func (f *Fetcher) vouch(ctx context.Context, req Request, l Listing, failing func(error)) error {
	driver, err := f.o.Drivers[req.Source.Scheme](req.Access)
	if err != nil {
		return err
	}
	voucher, ok := driver.(Voucher)
	if !ok {
		return nil
	}
	published, err := f.publishedDigests(req, l.Revision)
	if err != nil {
		return err
	}
	closed := &gate{failing: failing}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(f.o.Jobs)
	for i := range l.Files {
		file := &l.Files[i]
		if d, ok := published[*file]; ok {
			file.Digest = d
		}
		if file.Digest != "" {
			continue
		}
		if ctx.Err() != nil {
			break // one failed: ask no more
		}
		group.Go(func() error {
			return f.retry(ctx, "look up the digest of "+file.Path, closed, func(ctx context.Context) (int64, error) {
				d, err := voucher.Vouch(ctx, Object{Source: l.Of(req.Source), Revision: l.Revision, File: *file})
				if bad := d.Check(); err == nil && bad != nil {
					err = fmt.Errorf("%s: %w: %w", file.Path, bad, ErrCorrupt)
				}
				file.Digest = d
				return 0, err
			})
		})
	}
	return group.Wait()
}

// publishedDigests maps files of the revision, as they are listed, to the
// digests that they were published with.
func (f *Fetcher) publishedDigests(req Request, revision string) (map[File]Digest, error) {
	m, err := f.o.Store.Manifest(req.Name, revision)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	src, err := ParseSource(m.Source)
	if err != nil || src.WithoutRevision() != req.Source.WithoutRevision() {
		return nil, nil //nolint:nilerr // another stoker's source: it only costs the requests
	}
	digests := map[File]Digest{}
	for _, mf := range m.Files {
		if mf.VouchedBy != "" && mf.Version != "" {
			digests[File{Path: mf.Path, Size: mf.Size, Version: mf.Version}] = Digest(mf.VouchedBy)
		}
	}
	return digests, nil
}
