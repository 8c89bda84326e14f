package fetchertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// HubOptions adjust a [Hub]; the zero value is a Hub as the real one is.
type HubOptions struct {
	// PageSize is how many entries a page of the tree has; 0 means 1000.
	PageSize int
	// Quota limits requests.
	Quota Quota
	// BytesPerSecond limits all bodies together; 0 means as fast as it goes.
	BytesPerSecond int64
	// SignatureLife is how long a URL of the CDN is good; 0 means an hour.
	SignatureLife time.Duration
	// CDNAuthority replaces the host and port that redirects to the CDN name,
	// for tests that reach the CDN by another name.
	CDNAuthority string
	// RelativeRedirects sends small files by a redirect within the Hub's own
	// host, as the real Hub has done since 2025, instead of at once.
	RelativeRedirects bool
	// Mirror is how it differs from the Hub itself.
	Mirror Mirror
	// Tokens are valid beside those of the repositories. A token that is
	// neither is answered 401.
	Tokens []string
}

// Hub stands in for the Hugging Face Hub and its CDN: two HTTP servers, on two
// addresses. All its methods are safe for concurrent use.
type Hub struct {
	options  HubOptions
	api      *window
	resolves *window
	pace     pacer
	serial   atomic.Int64 // of request ids

	hubListener, cdnListener net.Listener

	mu      sync.Mutex
	signing []byte // key of the CDN's signatures
	repos   map[string]*repo
	blobs   map[string]*Content // what the CDN serves, by sha256
	log     []Request
	rules   []*rule
	cold    map[string]time.Time // when a mirror has a file, by path
}

// NewHub makes a Hub without repositories that does not listen yet.
func NewHub(o HubOptions) *Hub {
	if o.PageSize == 0 {
		o.PageSize = 1000
	}
	if o.SignatureLife == 0 {
		o.SignatureLife = time.Hour
	}
	q := o.Quota.withDefaults()
	h := &Hub{
		options:  o,
		signing:  []byte(rand.Text()),
		api:      &window{name: "api", limit: q.API, length: q.Window},
		resolves: &window{name: "resolvers", limit: q.Resolves, length: q.Window},
		repos:    map[string]*repo{},
		blobs:    map[string]*Content{},
		cold:     map[string]time.Time{},
	}
	h.pace.set(o.BytesPerSecond)
	return h
}

// StartHub serves a new Hub on two free loopback ports until the test ends.
func StartHub(tb testing.TB, o HubOptions) *Hub {
	tb.Helper()
	h := NewHub(o)
	ctx, cancel := context.WithCancel(context.Background())
	if err := h.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		cancel()
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return h
}

// Listen opens both addresses (host:port; port 0 takes a free one), so that
// URL and CDNURL are known. Serve must follow.
func (h *Hub) Listen(ctx context.Context, hubAddr, cdnAddr string) error {
	var config net.ListenConfig
	var err error
	if h.hubListener, err = config.Listen(ctx, "tcp", hubAddr); err != nil {
		return fmt.Errorf("listen for the Hub: %w", err)
	}
	if h.cdnListener, err = config.Listen(ctx, "tcp", cdnAddr); err != nil {
		_ = h.hubListener.Close()
		return fmt.Errorf("listen for the CDN: %w", err)
	}
	return nil
}

// Serve answers requests on the addresses of Listen until ctx ends, then ends
// the transfers under way and returns nil.
func (h *Hub) Serve(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for listener, handler := range map[net.Listener]http.Handler{
		h.hubListener: h.HubHandler(),
		h.cdnListener: h.CDNHandler(),
	} {
		server := &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 10 * time.Second,
			BaseContext:       func(net.Listener) context.Context { return groupCtx },
		}
		group.Go(func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the Hub stand-in: %w", err)
			}
			return nil
		})
		group.Go(func() error {
			<-groupCtx.Done()
			// Handlers see the same context end, so this takes no time.
			stop, cancel := context.WithTimeout(context.WithoutCancel(groupCtx), 5*time.Second)
			defer cancel()
			if err := server.Shutdown(stop); err != nil {
				return server.Close()
			}
			return nil
		})
	}
	return group.Wait()
}

// URL is the Hub's address, as HF_ENDPOINT takes it. Empty before Listen.
func (h *Hub) URL() string { return listenerURL(h.hubListener) }

// CDNURL is the CDN's address. Empty before Listen.
func (h *Hub) CDNURL() string { return listenerURL(h.cdnListener) }

func listenerURL(l net.Listener) string {
	if l == nil {
		return ""
	}
	return "http://" + l.Addr().String()
}

// SetBytesPerSecond changes the rate of all bodies together; 0 means as fast
// as it goes.
func (h *Hub) SetBytesPerSecond(rate int64) { h.pace.set(rate) }

// AddRepo makes an empty repository, or changes the options of one that is
// there. id is ORG/NAME, or NAME.
func (h *Hub) AddRepo(id string, o RepoOptions) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.repos[id]
	if !ok {
		r = &repo{id: id, refs: map[string]string{}, commits: map[string]*commit{}}
		h.repos[id] = r
	}
	r.options = o
}

// Push commits tree as the new head of a branch and returns the commit's id.
// A repository that is not there is made, open to all. Pushing reads all of
// the tree's content once, to digest it.
func (h *Hub) Push(ctx context.Context, id, branch string, tree Tree) (string, error) {
	h.mu.Lock()
	if h.repos[id] == nil {
		h.repos[id] = &repo{id: id, refs: map[string]string{}, commits: map[string]*commit{}}
	}
	r := h.repos[id]
	parent := r.refs[branch]
	h.mu.Unlock()
	c, err := newCommit(ctx, tree, parent)
	if err != nil {
		return "", fmt.Errorf("push to %s: %w", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r.commits[c.id], r.refs[branch] = c, c.id
	for _, e := range c.files {
		if e.LFS != nil {
			h.blobs[e.LFS.OID] = e.content
		}
	}
	return c.id, nil
}

// SetRef makes a branch, a tag or a ref (refs/pr/1) name a commit that was
// pushed.
func (h *Hub) SetRef(id, ref, commitID string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[id]
	if r == nil {
		return fmt.Errorf("set ref %s: no repository %s", ref, id)
	}
	if r.commits[commitID] == nil {
		return fmt.Errorf("set ref %s of %s: no commit %s", ref, id, commitID)
	}
	r.refs[ref] = commitID
	return nil
}
