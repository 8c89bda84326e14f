package store

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"sync"
)

// manifestCache keeps manifests that were decoded and checked: whoever looks at
// all models every half minute reads the files each time, since what is
// published is what is on the disk now, but decodes only what is not the same
// bytes. It also makes everybody share one copy, which for a node that holds
// thousands of files is most of what an idle agent keeps.
type manifestCache struct {
	mu      sync.Mutex
	entries map[manifestKey]cachedManifest
}

type manifestKey struct{ name, revision string }

type cachedManifest struct {
	digest   [sha256.Size]byte // of the file's bytes
	manifest Manifest
}

func (c *manifestCache) get(name, revision string, digest [sha256.Size]byte) (Manifest, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[manifestKey{name, revision}]
	return e.manifest, ok && e.digest == digest
}

func (c *manifestCache) put(m Manifest, digest [sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[manifestKey]cachedManifest{}
	}
	c.entries[manifestKey{m.Name, m.Revision}] = cachedManifest{digest: digest, manifest: m}
}

// retainNames forgets the models that are not among those listed, and
// retainRevisions a model's revisions that are not: they are gone.
func (c *manifestCache) retainNames(names []string) {
	c.retain(func(k manifestKey) bool { return slices.Contains(names, k.name) })
}

func (c *manifestCache) retainRevisions(name string, revisions []string) {
	c.retain(func(k manifestKey) bool { return k.name != name || slices.Contains(revisions, k.revision) })
}

func (c *manifestCache) retain(there func(manifestKey) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.entries, func(k manifestKey, _ cachedManifest) bool { return !there(k) })
}

// share has a file's digest that stands twice in the manifest be stored once.
func (m *Manifest) share() {
	for i, f := range m.Files {
		if at := strings.Index(f.VouchedBy, f.SHA256); at >= 0 {
			m.Files[i].SHA256 = f.VouchedBy[at : at+len(f.SHA256)]
		}
	}
}
