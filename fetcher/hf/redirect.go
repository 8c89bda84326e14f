package hf

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// errForbiddenRedirect is a redirect to where no request goes, whatever is asked
// again.
var errForbiddenRedirect = errors.New("a redirect")

// misled is an answer that leads nowhere.
func (op operation) misled(from *url.URL, err error) *fetcher.Error {
	kind := fetcher.ErrTransient
	if errors.Is(err, errForbiddenRedirect) {
		kind = fetcher.ErrRefused
	}
	return op.fail(kind, fmt.Errorf("%s: %w", httpsource.Host(from), err), "check the endpoint")
}

// follow resolves a Location. Its text is left out of errors: it may be signed, or
// repeat a token.
func follow(from *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, errors.New("a redirect to nowhere")
	}
	next, err := from.Parse(location)
	if err != nil {
		return nil, errors.New("a redirect to no valid address")
	}
	switch {
	case next.User != nil:
		return nil, fmt.Errorf("%w to an address with a user", errForbiddenRedirect)
	case next.Scheme != "http" && next.Scheme != "https":
		return nil, fmt.Errorf("%w to another scheme than http and https", errForbiddenRedirect)
	case next.Host == "":
		return nil, errors.New("a redirect to no valid address")
	case next.Scheme == "http" && from.Scheme == "https":
		return nil, fmt.Errorf("%w from https to plain http on %s", errForbiddenRedirect, httpsource.Host(next))
	}
	return next, nil
}
