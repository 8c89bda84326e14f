package measure

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/stoker-project/stoker/gpu/sizing"
	"github.com/stoker-project/stoker/printable"
)

// File is the name of the book under the store's folder agent.
const File = "measured.json"

// For how long a record stays when its pod is gone: of a trusted one, and of others, which may only take a yes away, and
// must not for long.
const (
	KeepTrusted = 30 * 24 * time.Hour
	KeepOthers  = time.Hour
)

const (
	// perModel is how many records of a model are kept of trusted pods, and of others; maxRecords how many in all.
	perModel   = 8
	maxRecords = 1024
	// seenStep is how exact it is when a pod was last seen, so that the book is not written all the time.
	seenStep = 10 * time.Minute
	// maxWord bounds names in a record.
	maxWord = 253
)

// Record is what one replica took of the memory of each of its GPUs. Sizes are in bytes.
type Record struct {
	// Pod is the UID of the pod.
	Pod string `json:"pod"`
	// Namespace is the pod's, where that makes it trusted; else it is not written down.
	Namespace string `json:"namespace,omitempty"`
	// Trusted says that the pod's namespace is, so that the record may add a yes for its release ([Record.TrustedFor]); else
	// it may only take one away.
	Trusted bool   `json:"trusted"`
	Model   string `json:"model"`
	// Revision is the published one that the replica loaded.
	Revision string `json:"revision"`
	// GPU is the product's name, TotalBytes what CUDA reports as its memory, and TensorParallel how many of them the replica
	// has.
	GPU            string `json:"gpu"`
	TotalBytes     uint64 `json:"totalBytes"`
	TensorParallel int    `json:"tensorParallel"`
	// VLLMVersion is the release that the image's tag names; empty: none.
	VLLMVersion string `json:"vllmVersion,omitempty"`
	// What the replica was started with, by its own page. MaxModelLen is 0 where it is not stated.
	GPUMemoryUtilization float64 `json:"gpuMemoryUtilization"`
	MaxModelLen          int64   `json:"maxModelLen,omitempty"`
	KVCacheDtype         string  `json:"kvCacheDtype"`
	// CacheTokens is how many tokens its cache's blocks hold. BesideBytes is what it took beside weights and cache.
	CacheTokens uint64 `json:"cacheTokens"`
	BesideBytes uint64 `json:"besideBytes"`
	// At is when it was measured, Seen when its pod was last here.
	At   time.Time `json:"at"`
	Seen time.Time `json:"seen"`
}

// valid reports whether a record can be one: it may come from a file that somebody else wrote.
func (r Record) valid() bool {
	for _, word := range []string{r.Pod, r.Model, r.Revision, r.GPU} {
		if word == "" || !short(word) {
			return false
		}
	}
	return short(r.Namespace) && short(r.VLLMVersion) && short(r.KVCacheDtype) && r.TotalBytes > 0 && r.TensorParallel > 0 &&
		r.GPUMemoryUtilization > 0 && r.GPUMemoryUtilization <= 1 && r.MaxModelLen >= 0 && r.BesideBytes > 0 && r.BesideBytes < r.TotalBytes
}

func short(word string) bool { return len(word) <= maxWord && printable.Line(word) == word }

// Book is what is known of replicas that were measured. It is a value: what changes it returns another.
type Book struct{ records []Record }

// Records are those of one published revision, the latest first.
func (b Book) Records(model, revision string) []Record {
	var out []Record
	for _, r := range b.records {
		if r.Model == model && r.Revision == revision {
			out = append(out, r)
		}
	}
	return out
}

// With puts a record in place of the one of the same pod.
func (b Book) With(r Record) Book {
	if !r.valid() {
		return b
	}
	records := slices.DeleteFunc(slices.Clone(b.records), func(o Record) bool { return o.Pod == r.Pod })
	return Book{bounded(append(records, r))}
}

// bounded orders records, the latest first, and leaves the oldest out where there are too many. Those of pods that are not
// trusted drive out none that are.
func bounded(records []Record) []Record {
	slices.SortStableFunc(records, func(a, b Record) int {
		return cmp.Or(b.Seen.Compare(a.Seen), b.At.Compare(a.At), cmp.Compare(a.Pod, b.Pod))
	})
	type kind struct {
		model   string
		trusted bool
	}
	count := map[kind]int{}
	records = slices.DeleteFunc(records, func(r Record) bool {
		k := kind{r.Model, r.Trusted}
		count[k]++
		return count[k] > perModel
	})
	return records[:min(len(records), maxRecords)]
}

// Present is what decides which records stay.
type Present struct {
	Now time.Time
	// Pods are the UIDs of the replicas that are here; PodsKnown is false while that is not known.
	Pods      map[string]bool
	PodsKnown bool
	// Revisions are the published ones by model; RevisionsKnown is false while they are not known.
	Revisions      map[string]string
	RevisionsKnown bool
	// Trusted reports whether a namespace is.
	Trusted func(namespace string) bool
}

// Keep leaves what is still of use: of published revisions, and of pods that are here or have been of late.
func (b Book) Keep(p Present) Book {
	var out []Record
	for _, r := range b.records {
		r.Trusted = r.Trusted && p.Trusted(r.Namespace)
		if !r.Trusted {
			r.Namespace = ""
		}
		if now := p.Now.UTC().Truncate(seenStep); p.PodsKnown && p.Pods[r.Pod] || r.Seen.After(p.Now) {
			r.Seen = now
		}
		keep := KeepOthers
		if r.Trusted {
			keep = KeepTrusted
		}
		gone := p.RevisionsKnown && p.Revisions[r.Model] != r.Revision
		// As long again as Seen may be behind.
		if !gone && p.Now.Sub(r.Seen) < keep+seenStep {
			out = append(out, r)
		}
	}
	return Book{bounded(out)}
}

// TrustedFor reports whether the record may add a yes to a sum by the rules of a release of vLLM. Releases take different
// amounts beside weights and cache, so one of another release, or of an unknown one, may only take a yes away.
func (r Record) TrustedFor(release string) bool {
	return r.Trusted && sizing.SameVLLMRelease(r.VLLMVersion, release)
}

// Beside returns the most that replicas of a published revision took on GPUs like these, for a sum by the rules of a
// release of vLLM. Records that are trusted for it alone count where there are any: what others claim changes nothing that
// those have shown.
func (b Book) Beside(model, revision string, d sizing.DeviceMemory, tensorParallel int, release string) sizing.Measured {
	var m sizing.Measured
	for _, r := range b.records {
		if r.Model != model || r.Revision != revision || r.GPU != d.Name || r.TotalBytes != d.UsableBytes || r.TensorParallel != tensorParallel {
			continue
		}
		switch trusted := r.TrustedFor(release); {
		case trusted == m.Trusted:
			m.BesideBytes = max(m.BesideBytes, r.BesideBytes)
		case trusted:
			m = sizing.Measured{BesideBytes: r.BesideBytes, Trusted: true}
		}
	}
	return m
}

// Equal compares books.
func (b Book) Equal(o Book) bool {
	return slices.EqualFunc(b.records, o.records, func(x, y Record) bool {
		same := x.At.Equal(y.At) && x.Seen.Equal(y.Seen)
		x.At, x.Seen, y.At, y.Seen = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		return same && x == y
	})
}

// bookFile is a book as it is written down.
type bookFile struct {
	Version int      `json:"version"`
	Records []Record `json:"records"`
}

const bookVersion = 1

// Encode is the book as JSON.
func (b Book) Encode() ([]byte, error) {
	return json.Marshal(bookFile{Version: bookVersion, Records: b.records})
}

// ParseBook reads what Encode wrote. Records that cannot be are left out.
func ParseBook(data []byte) (Book, error) {
	var f bookFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Book{}, fmt.Errorf("read what was measured: %w", err)
	}
	if f.Version != bookVersion {
		return Book{}, fmt.Errorf("read what was measured: it has version %d; want %d", f.Version, bookVersion)
	}
	pods := map[string]bool{}
	records := slices.DeleteFunc(f.Records, func(r Record) bool {
		twice := pods[r.Pod]
		pods[r.Pod] = true
		return twice || !r.valid()
	})
	return Book{bounded(records)}, nil
}
