package fetcher

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// knownContent returns the sha256 under which the content with this key came before, or
// "". Whether it is still in the store, Has tells.
type knownContent func(key string) string

// knownContent has what has no sha256 of its source not fetched again: what is published,
// was withdrawn for another file's sake, or was admitted by a pull that did not finish.
func (f *Fetcher) knownContent(staging *store.Staging) (knownContent, error) {
	unpublished, err := staging.Finished()
	if err != nil {
		return nil, err
	}
	here, err := f.here.read(f.o.Store)
	if err != nil {
		return nil, err
	}
	return func(key string) string {
		if sum, ok := here.get(key); ok {
			return sum
		}
		return unpublished[key]
	}, nil
}

const (
	// indexAge is for how long a contentIndex believes the store's generation, which an
	// older stoker does not change.
	indexAge = time.Minute
	// maxIndexed bounds how much content is kept in memory, at about 100 bytes each.
	maxIndexed = 1 << 18
)

// contentIndex is what the store's manifests tell of content without a sha256 of its
// source. Of its own pulls it learns by add; once another process has changed the
// manifests, all are read again.
type contentIndex struct {
	mu         sync.Mutex
	generation string // of the store, when all was read; empty: nothing is kept
	since      time.Time
	sums       contentSums
}

// contentSums maps the sha256 of content keys to the sha256 of the content. It is safe
// for concurrent use.
type contentSums struct {
	mu   *sync.RWMutex
	sums map[[sha256.Size]byte][sha256.Size]byte
}

func newContentSums() contentSums {
	return contentSums{mu: &sync.RWMutex{}, sums: map[[sha256.Size]byte][sha256.Size]byte{}}
}

func (c contentSums) get(key string) (string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	sum, ok := c.sums[sha256.Sum256([]byte(key))]
	return hex.EncodeToString(sum[:]), ok
}

// add takes over the files of a manifest of which the source tells no sha256.
func (c contentSums) add(m store.Manifest) {
	src, err := ParseSource(m.Source)
	if err != nil {
		return // an older or newer stoker's: it only costs a download
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, mf := range m.Files {
		file := listed(mf)
		sum, err := hex.DecodeString(mf.SHA256)
		if err != nil || len(sum) != sha256.Size || file.Digest.Algorithm() == SHA256 {
			continue
		}
		c.sums[sha256.Sum256([]byte(contentKey(file, src, m.Revision)))] = [sha256.Size]byte(sum)
	}
}

func (c contentSums) len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.sums)
}

// read returns what is known now.
func (x *contentIndex) read(s *store.Store) (contentSums, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	// Before the manifests: what changes meanwhile has them read again.
	generation := s.Generation()
	if generation != "" && generation == x.generation && time.Since(x.since) < indexAge {
		return x.sums, nil
	}
	x.generation = ""
	started := time.Now()
	sums, err := readContents(s)
	if err != nil {
		return contentSums{}, err
	}
	if sums.len() <= maxIndexed {
		x.generation, x.since, x.sums = generation, started, sums
	}
	return sums, nil
}

// add takes over what this process has published, which made the store's generation
// before the one after.
func (x *contentIndex) add(m store.Manifest, before, after string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.generation == "" || x.generation != before {
		return // somebody else published, too: all is read again
	}
	x.generation = after
	x.sums.add(m)
	if x.sums.len() > maxIndexed {
		x.generation, x.sums = "", contentSums{}
	}
}

// readContents reads every manifest.
func readContents(s *store.Store) (contentSums, error) {
	sums := newContentSums()
	manifests, err := s.Withdrawn()
	if err != nil {
		return contentSums{}, err
	}
	names, err := s.Names()
	if err != nil {
		return contentSums{}, err
	}
	for _, name := range names {
		revisions, err := s.Revisions(name)
		if err != nil {
			return contentSums{}, err
		}
		manifests = append(manifests, revisions...)
	}
	for _, m := range manifests {
		sums.add(m)
	}
	return sums, nil
}
