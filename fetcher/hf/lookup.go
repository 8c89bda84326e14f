package hf

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// shaOnly asks the look-up of a revision for the commit alone, as the Hub's own clients
// do (expand of huggingface_hub's model_info and of huggingface.js's modelInfo): without
// it the answer names every file.
const shaOnly = "expand=sha"

// Bounds on what is remembered of look-ups.
const (
	maxLookedUp = 4096 // revisions
	maxETag     = 256  // bytes
)

// lookedUp remembers the answers to look-ups by their ETags, and how the endpoint takes
// to be asked.
type lookedUp struct {
	mu      sync.Mutex
	answers map[string]lookedUpAnswer
	// plain: this endpoint answers only without shaOnly.
	plain bool
}

type lookedUpAnswer struct{ etag, commit string }

func (l *lookedUp) get(target *url.URL) lookedUpAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[target.String()]
}

func (l *lookedUp) put(target *url.URL, etag, commit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if etag == "" || len(etag) > maxETag {
		delete(l.answers, target.String())
		return
	}
	if l.answers == nil || len(l.answers) >= maxLookedUp {
		l.answers = map[string]lookedUpAnswer{}
	}
	l.answers[target.String()] = lookedUpAnswer{etag, commit}
}

func (l *lookedUp) asksPlainly() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.plain
}

func (l *lookedUp) askPlainly() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plain = true
}

// Resolve implements [fetcher.Resolver]: one small answer, without the list of files,
// and an empty one where nothing has changed since the last one and the endpoint gives
// ETags.
func (d *Driver) Resolve(ctx context.Context, src fetcher.Source) (string, error) {
	op := operation{verb: "list", origin: src.String(), repo: src.Path, endpoint: d.endpoint.Host}
	switch {
	case src.Scheme != fetcher.SchemeHub:
		return "", op.fail(fetcher.ErrRefused, errors.New("it is no Hub repository"), "write it as hf://[ORG/]NAME")
	case fetcher.IsCommit(src.Revision):
		return src.Revision, nil
	}
	bounded := httpsource.Operation{Verb: op.verb, Origin: op.origin}
	l, err := d.bounds.List(ctx, bounded, func(ctx context.Context) (fetcher.Listing, error) {
		commit, err := d.lookUp(ctx, op, src)
		return fetcher.Listing{Revision: commit}, err
	})
	return l.Revision, err
}

// lookUp resolves a branch, tag or ref to the commit that it names now. Where an
// endpoint has no answer to the short question, the long one is asked.
func (d *Driver) lookUp(ctx context.Context, op operation, src fetcher.Source) (string, error) {
	revision := src.Revision
	if revision == "" {
		revision = "main"
	}
	target := d.url("/api/models/" + src.Path + "/revision/" + url.PathEscape(revision))
	if !d.lookedUp.asksPlainly() {
		short := *target
		short.RawQuery = shaOnly
		commit, err := d.lookUpAt(ctx, op, &short, revision)
		if !errors.As(err, new(noRoute)) && !errors.Is(err, errNoCommit) {
			return commit, err
		}
	}
	commit, err := d.lookUpAt(ctx, op, target, revision)
	if err == nil {
		d.lookedUp.askPlainly()
	}
	return commit, err
}

// errNoCommit is an answer to a look-up that has no commit.
var errNoCommit = errors.New("names no commit")

func (d *Driver) lookUpAt(ctx context.Context, op operation, target *url.URL, revision string) (string, error) {
	var info struct {
		SHA string `json:"sha"`
	}
	known := d.lookedUp.get(target)
	header, changed, err := d.readNewJSON(ctx, op, target, known.etag, func(body *jsonBody) error { return body.decode(&info, maxInfo) })
	switch {
	case err != nil:
		return "", err
	case !changed:
		return known.commit, nil
	case !fetcher.IsCommit(info.SHA):
		return "", op.fail(fetcher.ErrTransient, fmt.Errorf("%s %w for revision %q", d.endpoint.Host, errNoCommit, revision), "check that the endpoint is a Hub")
	}
	d.lookedUp.put(target, header.Get("ETag"), info.SHA)
	return info.SHA, nil
}
