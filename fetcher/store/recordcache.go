package store

import (
	"encoding/hex"
	"io/fs"
	"sync"
)

// recordCache keeps what records said: whoever looks at all models every half
// minute need not read thousands of small files again that have not changed. An
// entry holds as long as stat shows the file that it was read from. There is one
// for every blob, so they are kept small.
type recordCache struct {
	mu      sync.Mutex
	entries map[blobKey]cachedRecord
}

// blobKey is a sha256.
type blobKey [32]byte

type cachedRecord struct {
	file appearance // what the record's own file looked like
	said record
}

func (c *recordCache) get(sha256Hex string, now fs.FileInfo) (record, bool) {
	key, ok := keyOf(sha256Hex)
	if !ok {
		return record{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	return e.said, ok && e.file == appearanceOf(now)
}

// put takes what was read after the file looked like that.
func (c *recordCache) put(sha256Hex string, file fs.FileInfo, said record) {
	key, ok := keyOf(sha256Hex)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[blobKey]cachedRecord{}
	}
	c.entries[key] = cachedRecord{file: appearanceOf(file), said: said}
}

// drop forgets a record that is written anew or removed.
func (c *recordCache) drop(sha256Hex string) {
	if key, ok := keyOf(sha256Hex); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.entries, key)
	}
}

func keyOf(sha256Hex string) (key blobKey, ok bool) {
	n, err := hex.Decode(key[:], []byte(sha256Hex)[:min(len(sha256Hex), 2*len(key))])
	return key, err == nil && n == len(key)
}
