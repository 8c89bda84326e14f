package fetcher

import (
	"context"
	"errors"
	"fmt"
)

// Catalog is what somebody else has looked up, for all who pull from the same sources:
// the commit that a source means, and what that commit lists. It is asked about sources
// whose driver is a [Resolver], before the source itself. It is safe for concurrent use
// and answers at once, from what it knows: a Catalog that waits for its own network
// bounds that itself, to seconds.
type Catalog interface {
	// Revision returns the commit that the source means, reached by this access, and the
	// SHA-256 of its canonical listing ([Listing.CanonicalDigest]), "" if that is not
	// known. ok is false where it does not know the source: then the source is asked. Of
	// a pinned source the commit is the source's own.
	Revision(ctx context.Context, src Source, access Access) (commit, listingDigest string, ok bool)
	// Listing returns the listing of that commit, if somebody has it; ok is false where
	// nobody has. It need not be trusted: a listing whose canonical digest is not the one
	// that Revision returned is refused. After an error, which is logged, the source is asked.
	Listing(ctx context.Context, src Source, access Access, commit string) (l Listing, ok bool, err error)
}

// catalogued is what the catalog knows of the request's source.
func (f *Fetcher) catalogued(ctx context.Context, req Request) (commit, digest string, ok bool) {
	if f.o.Catalog == nil {
		return "", "", false
	}
	commit, digest, ok = f.o.Catalog.Revision(ctx, req.Source, req.Access)
	if !ok {
		return "", "", false
	}
	if !IsCommit(commit) || req.Source.Pinned() && commit != req.Source.Revision {
		f.o.Logger.Warn("asking the source, as the catalog names no commit of it", "source", req.Source.String())
		return "", "", false
	}
	return commit, digest, true
}

// catalogListing returns the catalog's listing of a commit, if it has the digest.
func (f *Fetcher) catalogListing(ctx context.Context, req Request, commit, digest string) (Listing, bool) {
	if digest == "" {
		return Listing{}, false
	}
	l, ok, err := f.o.Catalog.Listing(ctx, req.Source, req.Access, commit)
	if err == nil && ok {
		err = checkCatalogListing(l, commit, digest)
	}
	if err != nil && ctx.Err() == nil {
		f.o.Logger.Warn("listing the files at the source, as the catalog's list cannot be used", "source", req.Source.String(), "revision", commit, "error", err)
	}
	return l, ok && err == nil
}

func checkCatalogListing(l Listing, commit, digest string) error {
	got, err := l.CanonicalDigest()
	switch {
	case err != nil:
		return err
	case l.Revision != commit:
		return fmt.Errorf("it is of revision %s: %w", l.Revision, ErrCorrupt)
	case l.Source != (Source{}):
		return fmt.Errorf("it is of another source: %w", ErrCorrupt)
	case got != digest:
		return fmt.Errorf("its sha256 is %s, the catalog says %s: %w", got, digest, ErrCorrupt)
	}
	return nil
}

// resolve returns which commit the source means now.
func (f *Fetcher) resolve(ctx context.Context, req Request, driver Resolver, failing func(error)) (string, error) {
	if req.Source.Pinned() {
		return req.Source.Revision, nil
	}
	var revision string
	err := f.retry(ctx, "look up", f.listGate(failing), func(ctx context.Context) (int64, error) {
		var err error
		revision, err = driver.Resolve(ctx, req.Source)
		return 0, err
	})
	return revision, err
}

// listResolved lists the files of the commit that the source means: the catalog's, or
// the one that was looked up before and could not be pulled, or the one that is looked
// up now.
func (f *Fetcher) listResolved(ctx context.Context, req Request, driver Resolver, failing func(error)) (Listing, error) {
	if commit, digest, ok := f.catalogued(ctx, req); ok {
		if l, ok := f.catalogListing(ctx, req, commit, digest); ok {
			return l, nil
		}
		l, err := f.listCommit(ctx, req, driver, commit, failing)
		if !errors.Is(err, ErrRefused) || req.Source.Pinned() || ctx.Err() != nil {
			return l, err
		}
		f.o.Logger.Warn("looking the source up, as it does not have the catalog's commit", "source", req.Source.String(), "revision", commit, "error", err)
	}
	commit, ok := f.found.commit(req)
	if !ok {
		var err error
		if commit, err = f.resolve(ctx, req, driver, failing); err != nil {
			return Listing{}, err
		}
		f.found.put(req, commit, nil)
	}
	return f.listCommit(ctx, req, driver, commit, failing)
}

// listCommit lists the files of one commit at the source.
func (f *Fetcher) listCommit(ctx context.Context, req Request, driver Resolver, commit string, failing func(error)) (Listing, error) {
	if l, ok := f.found.listing(req, commit); ok {
		return l, nil
	}
	src := req.Source
	src.Revision = commit
	var l Listing
	err := f.retry(ctx, "list files", f.listGate(failing), func(ctx context.Context) (int64, error) {
		var err error
		l, err = driver.List(ctx, src)
		return 0, err
	})
	switch {
	case err != nil:
		return Listing{}, err
	case l.Revision != commit:
		return Listing{}, fmt.Errorf("list %s: it is of revision %s: %w", src, l.Revision, ErrCorrupt)
	}
	f.found.put(req, commit, &l)
	return l, nil
}
