package fetcher

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// foundFor is how long a commit that was looked up stands for what its source means
// while its pull waits for a quota: to look it up again would use up more of one.
const foundFor = time.Hour

// Bounds on what is remembered.
const (
	maxFound      = 4096    // commits: more than a model list has
	maxFoundFiles = 200_000 // of all their listings, about 40 MB
)

// found remembers commits that were looked up and not pulled yet, and the listings of
// those that were listed, for pulls that are begun again because a quota is used up. The
// zero found is empty.
type found struct {
	mu      sync.Mutex
	commits map[string]foundCommit
	files   int
}

type foundCommit struct {
	commit  string
	at      time.Time
	listing *Listing
}

func foundKey(req Request) string { return fmt.Sprintf("%s %#v", req.Source, req.Access) }

// commit returns the commit that was looked up, if that was not long ago.
func (c *found) commit(req Request) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, ok := c.commits[foundKey(req)]
	return have.commit, ok && time.Since(have.at) < foundFor
}

// listing returns the listing of that commit, if it was listed.
func (c *found) listing(req Request, commit string) (Listing, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.commits[foundKey(req)]
	if have.listing == nil || have.commit != commit || time.Since(have.at) >= foundFor {
		return Listing{}, false
	}
	l := *have.listing
	l.Files = slices.Clone(l.Files)
	return l, true
}

// put remembers a commit, and its listing if that is not nil.
func (c *found) put(req Request, commit string, l *Listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(foundKey(req))
	if c.commits == nil || len(c.commits) >= maxFound {
		c.commits, c.files = map[string]foundCommit{}, 0
	}
	have := foundCommit{commit: commit, at: time.Now()}
	if l != nil && c.files+len(l.Files) <= maxFoundFiles {
		kept := *l
		kept.Files = slices.Clone(l.Files)
		have.listing = &kept
		c.files += len(l.Files)
	}
	c.commits[foundKey(req)] = have
}

func (c *found) forget(req Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(foundKey(req))
}

func (c *found) drop(key string) {
	if have := c.commits[key]; have.listing != nil {
		c.files -= len(have.listing.Files)
	}
	delete(c.commits, key)
}
