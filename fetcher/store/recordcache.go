package store

import (
	"io/fs"
	"sync"
)

// recordCache keeps what records said: whoever looks at all models every half
// minute need not read thousands of small files again that have not changed. An
// entry holds as long as stat shows the file that it was read from.
type recordCache struct {
	mu      sync.Mutex
	entries map[string]cachedRecord
}

type cachedRecord struct {
	file record // what the record's own file looked like
	said record
}

func (c *recordCache) get(sha256Hex string, now fs.FileInfo) (record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[sha256Hex]
	return e.said, ok && e.file.matches(now)
}

// put takes what was read after the file looked like that.
func (c *recordCache) put(sha256Hex string, file fs.FileInfo, said record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[string]cachedRecord{}
	}
	c.entries[sha256Hex] = cachedRecord{file: recordOf(file), said: said}
}

// drop forgets a record that is written anew or removed.
func (c *recordCache) drop(sha256Hex string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, sha256Hex)
}
