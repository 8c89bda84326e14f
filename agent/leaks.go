package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/stoker-project/stoker/gpu"
)

// LeakStatus is memory that is in use on a device though no pod on the node
// has a GPU: most often of a process that outlived its pod.
type LeakStatus struct {
	// Index is the GPU's number; MIG the slot on it, for a MIG device.
	Index int    `json:"index"`
	MIG   string `json:"mig,omitempty"`
	UUID  string `json:"uuid,omitempty"`
	// Bytes were in use when it was found out.
	Bytes uint64 `json:"bytes"`
	// Since is when that was first seen, in Unix seconds.
	Since int64 `json:"since"`
}

// device names it for people.
func (l LeakStatus) device() string {
	if l.MIG != "" {
		return fmt.Sprintf("GPU %d, MIG device %s", l.Index, l.MIG)
	}
	return fmt.Sprintf("GPU %d", l.Index)
}

// deviceKey identifies a device over readings.
func deviceKey(d gpu.Device) string {
	if d.UUID != "" {
		return d.UUID
	}
	return strconv.Itoa(d.Index) + "/" + migSlot(d)
}

// migSlot is the slot of a MIG device; "" for a GPU.
func migSlot(d gpu.Device) string {
	if d.MIG == nil {
		return ""
	}
	return strconv.Itoa(d.MIG.Index)
}

// leaks finds memory that nobody on this node can have asked for. It has no
// clock. What is found stays until the memory is seen free: a pod that comes
// later is the one that suffers from it, and does not make it another's.
type leaks struct {
	since map[string]time.Time  // when it was first in use without a pod
	told  map[string]LeakStatus // what was reported
}

// look takes a reading. What cannot be seen is no leak: a device that is not
// known, pods that are not known, and the time before.
func (l *leaks) look(now time.Time, g gpuFacts, after time.Duration, above Share) (found, gone []LeakStatus) {
	if !g.Known {
		l.since = nil
		return nil, nil
	}
	since, seen := map[string]time.Time{}, map[string]bool{}
	for _, d := range g.Devices {
		key := deviceKey(d)
		seen[key] = true
		if d.State != gpu.StateOK || d.TotalBytes == 0 {
			continue // of a GPU in MIG mode, its MIG devices tell
		}
		leak, told := l.told[key]
		// What the kernel caches, Stoker's own reads among it, nobody holds. Memory
		// that a GPU shares with the machine is used by whatever runs there.
		used := d.UsedBytes - min(d.PageCacheBytes, d.UsedBytes)
		if d.UnifiedMemory || used <= uint64(above.Of(int64(d.TotalBytes))) {
			if told {
				delete(l.told, key)
				gone = append(gone, leak)
			}
			continue
		}
		if told || !g.FreeKnown || g.Held {
			continue
		}
		from, ok := l.since[key]
		if !ok {
			from = now
		}
		if since[key] = from; now.Sub(from) < after {
			continue
		}
		leak = LeakStatus{Index: d.Index, MIG: migSlot(d), UUID: d.UUID, Bytes: used, Since: from.Unix()}
		if l.told == nil {
			l.told = map[string]LeakStatus{}
		}
		l.told[key] = leak
		found = append(found, leak)
	}
	l.since = since
	for _, key := range slices.Sorted(maps.Keys(l.told)) {
		if !seen[key] { // as a MIG device after another partitioning
			gone = append(gone, l.told[key])
			delete(l.told, key)
		}
	}
	return found, gone
}

// list is what is reported, in the order of the devices.
func (l *leaks) list() []LeakStatus {
	out := slices.Collect(maps.Values(l.told))
	slices.SortFunc(out, func(a, b LeakStatus) int {
		if a.Index != b.Index {
			return a.Index - b.Index
		}
		return slotNumber(a) - slotNumber(b)
	})
	return out
}

// slotNumber sorts MIG devices behind their GPU.
func slotNumber(l LeakStatus) int {
	n, err := strconv.Atoi(l.MIG)
	if err != nil {
		return -1
	}
	return n
}

// restore takes over what an earlier run reported on the Node, so that a
// restart neither forgets nor repeats it.
func (l *leaks) restore(annotation string) {
	var status NodeStatus
	if json.Unmarshal([]byte(annotation), &status) != nil {
		return // of another version, or somebody else's: it is found again
	}
	for _, leak := range status.GPUs.Leaks {
		if l.told == nil {
			l.told = map[string]LeakStatus{}
		}
		key := leak.UUID
		if key == "" {
			key = strconv.Itoa(leak.Index) + "/" + leak.MIG
		}
		l.told[key] = leak
	}
}
