package fetcher

import (
	"fmt"
	"sync"
	"time"
)

// foundFor is how long a commit that was looked up stands for what its source means
// while it could not be listed: a quota that is used up has its pull begun again later,
// and to look up again would cost the quota of another one.
const foundFor = time.Hour

// maxFound bounds what is remembered: more than a model list has.
const maxFound = 4096

// found remembers commits that were looked up and not listed yet. The zero found is
// empty.
type found struct {
	mu      sync.Mutex
	commits map[string]foundCommit
}

type foundCommit struct {
	commit string
	at     time.Time
}

func foundKey(req Request) string { return fmt.Sprintf("%s %#v", req.Source, req.Access) }

func (c *found) get(req Request) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, ok := c.commits[foundKey(req)]
	return have.commit, ok && time.Since(have.at) < foundFor
}

func (c *found) put(req Request, commit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.commits == nil || len(c.commits) >= maxFound {
		c.commits = map[string]foundCommit{}
	}
	c.commits[foundKey(req)] = foundCommit{commit, time.Now()}
}

func (c *found) forget(req Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.commits, foundKey(req))
}
