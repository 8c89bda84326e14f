package hf

import (
	"context"
	"net/url"
	"sync"

	"github.com/stoker-project/stoker/fetcher"
)

// maxAddresses bounds how many files' addresses are remembered. One is about a
// kilobyte; the files of a model that are under transfer at once are far fewer.
const maxAddresses = 1024

// fileKey is one file as it was listed. The digest is a part of it, so that no
// address serves a reader whose identity check another one passed.
type fileKey struct {
	repo, commit, path string
	digest             fetcher.Digest
}

// addresses remembers, in memory only, on which other host the Hub's redirects
// found a file: a large file is read in many ranges, and each question to the Hub
// takes time and counts against its rate limit. An address is signed: it must not
// be shown to anyone.
type addresses struct {
	limit int

	mu    sync.Mutex
	files map[fileKey]*address
	uses  int64
}

// address is where one file is, or will be known to be.
type address struct {
	// settled is closed when url says where the file is, or whoever was to find
	// out has failed.
	settled chan struct{}
	// url is nil if the Hub serves the file itself, or if nothing was found out.
	url *url.URL
	// used orders addresses by their last use; of addresses.mu.
	used int64
}

// find returns what is known of a file. If nothing is, the first caller is to ask
// the Hub, and to call settle whatever comes of it; others wait for that, or until
// ctx ends.
func (a *addresses) find(ctx context.Context, key fileKey) (at *url.URL, settle func(*url.URL, error)) {
	entry, first := a.entry(key)
	if first {
		return nil, func(at *url.URL, err error) { a.settle(key, entry, at, err) }
	}
	select {
	case <-entry.settled:
		return entry.url, nil
	case <-ctx.Done():
		return nil, nil
	}
}

// entry returns a file's entry, and whether it is new.
func (a *addresses) entry(key fileKey) (entry *address, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	entry, ok := a.files[key]
	if !ok {
		entry = &address{settled: make(chan struct{})}
		a.put(key, entry)
	}
	a.uses++
	entry.used = a.uses
	return entry, !ok
}

// put makes room and keeps an entry; a.mu is held.
func (a *addresses) put(key fileKey, entry *address) {
	if a.files == nil {
		a.files = map[fileKey]*address{}
	}
	if _, ok := a.files[key]; !ok && len(a.files) >= a.limit {
		var oldest fileKey
		for k, e := range a.files {
			if o, ok := a.files[oldest]; !ok || e.used < o.used {
				oldest = k
			}
		}
		delete(a.files, oldest)
	}
	a.files[key] = entry
}

// settle ends the waiting for an entry: the file is at this address, or at the
// Hub's own (nil), or it was not found out.
func (a *addresses) settle(key fileKey, entry *address, at *url.URL, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.files[key] == entry {
		delete(a.files, key)
	}
	if err == nil {
		entry.url = at
	}
	close(entry.settled)
}

// learn remembers what a reader found out that did not wait for another.
func (a *addresses) learn(key fileKey, at *url.URL) {
	entry := &address{settled: make(chan struct{}), url: at}
	close(entry.settled)
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, ok := a.files[key]; ok && !old.known() {
		return // somebody is about to know it
	}
	a.uses++
	entry.used = a.uses
	a.put(key, entry)
}

// forget drops an address that was of no use, unless another took its place.
func (a *addresses) forget(key fileKey, at *url.URL) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.files[key]; ok && e.known() && e.url != nil && e.url.String() == at.String() {
		delete(a.files, key)
	}
}

// known says that nobody waits for the address any more.
func (e *address) known() bool {
	select {
	case <-e.settled:
		return true
	default:
		return false
	}
}
