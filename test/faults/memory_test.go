package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"

	"golang.org/x/sys/unix"
)

// inMemory is the value of the warm label of a model whose pages are in memory.
const inMemory = "ram"

const (
	// leastResident is which share of a model may be missing from memory before its
	// label lies: the agent's is 90%, and the file system's blocks are not pages.
	leastResident = 0.88
	// memoryBound is how long the label may say so without that being true: ten
	// times as long as the agent takes from one measurement to the next.
	memoryBound = 5 * time.Second
)

// remembered are the models that a Node's labels call in memory.
func remembered(labels map[string]string) map[string]bool {
	out := map[string]bool{}
	for key, tier := range labels {
		if name, ok := strings.CutPrefix(key, ordeal.WarmPrefix); ok && tier == inMemory {
			out[name] = true
		}
	}
	return out
}

// toRemember are the models that the Node should call so when all is well.
func (w *world) toRemember() map[string]bool {
	out := map[string]bool{}
	for name := range w.wanted() {
		if w.entries[name].ram {
			out[name] = true
		}
	}
	return out
}

// checkMemory holds the labels that say ram against what is there, as far as that
// can be seen: what is not published as it should be is another lie.
func (w *world) checkMemory(labels map[string]string) map[string]string {
	found := map[string]string{}
	revisions := ordeal.Promises(labels)
	for name := range remembered(labels) {
		path, err := w.reader.Revision(name, revisions[name])
		if err != nil {
			continue
		}
		if share, err := w.reader.Resident(path); err == nil && share < leastResident {
			found[name] = fmt.Sprintf("%.1f%% are in memory", 100*share)
		}
	}
	return found
}

// judgeMemory counts for how long labels have said ram of what is not there.
func (w *world) judgeMemory(found map[string]string, passed time.Duration) {
	if !w.canCorrect() {
		passed = 0
	}
	w.lies.mu.Lock()
	defer w.lies.mu.Unlock()
	for name := range w.lies.ofMemory {
		if _, still := found[name]; !still {
			delete(w.lies.ofMemory, name)
		}
	}
	for name, why := range found {
		if _, known := w.lies.ofMemory[name]; !known {
			w.note("the label of %s says ram: %s", name, why)
		}
		w.lies.ofMemory[name] += passed
		if seen := w.lies.ofMemory[name]; seen > memoryBound {
			w.fail("the label of %s has said ram for %s: %s", name, seen, why)
		}
	}
}

// forget leaves no room for models in memory and takes their pages out: a label
// that says ram must go, since nobody brings them back.
func (w *world) forget(names ...string) {
	w.forgetful = true
	w.writeList()
	w.pause(time.Second) // to be taken over, or else they are read again
	for _, name := range names {
		w.forgetPages(name)
	}
	w.pause(memoryBound + 2*time.Second)
	w.forgetful = false
	w.writeList()
}

// forgetPages takes a model's pages out of memory, as another process does that
// needs it.
func (w *world) forgetPages(name string) {
	w.diskMu.RLock()
	defer w.diskMu.RUnlock()
	for _, f := range w.source.Files(w.commitOf(name)) {
		file, err := os.Open(filepath.Join(w.disk.dir, "blobs", "sha256", f.SHA256))
		if err != nil {
			continue // it is not there
		}
		if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			w.note("not done: %v", err)
		}
		if err := file.Close(); err != nil {
			w.note("close: %v", err)
		}
	}
}
