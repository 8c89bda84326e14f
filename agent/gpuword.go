package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// unknown stands for a number that cannot be told: it claims less than any
// other, so that losing sight of the GPUs is a way down like any other.
const unknown = -1

// gpuWord is all that a Node says of its GPUs, in the labels' steps. Every
// number claims more the higher it is, and may be unknown.
type gpuWord struct {
	// Count is how many whole GPUs (or MIG devices, where those are what
	// nvidia.com/gpu stands for) can take work; unknown: the GPUs cannot be
	// read, and Reason says why.
	Count  int
	Reason string
	Name   string // of the first of them
	// TotalBytes is the memory of the largest of them as NVML reports it,
	// UsableBytes as CUDA does, of which vLLM takes its share.
	TotalBytes  uint64
	UsableBytes uint64
	// Idle, FreeGiB and Unallocated are as in the labels and the annotation.
	Idle        int
	FreeGiB     int
	Unallocated int
	// Fits holds every warm model; Tight those of which further replicas may start,
	// or not.
	Fits  map[string]int
	Tight map[string]int
	// Measured is what replicas of warm models took here, of those that were measured.
	Measured map[string]sizing.Measured
	Leaks    []LeakStatus

	// trouble is the kind of Reason: texts of one kind differ from reading to
	// reading, and are not worth a write.
	trouble string
}

// equal compares what is said.
func (w gpuWord) equal(o gpuWord) bool {
	return w.Count == o.Count && w.Reason == o.Reason && w.Name == o.Name && w.TotalBytes == o.TotalBytes && w.UsableBytes == o.UsableBytes && w.Idle == o.Idle &&
		w.FreeGiB == o.FreeGiB && w.Unallocated == o.Unallocated &&
		maps.Equal(w.Fits, o.Fits) && maps.Equal(w.Tight, o.Tight) && maps.Equal(w.Measured, o.Measured) && slices.Equal(w.Leaks, o.Leaks)
}

// known says whether the GPUs can be read.
func (w gpuWord) known() bool { return w.Count != unknown }

// fits is what is said of a model; ok is false where nothing is.
func (w gpuWord) fits(model string) (replicas int, ok bool) {
	n, ok := w.Fits[model]
	return n, ok && n != unknown
}

// wordOf is what holds now, by one reading.
func wordOf(models []modelState, g gpuFacts, leaks []LeakStatus) gpuWord {
	w := gpuWord{
		Count: unknown, Idle: unknown, FreeGiB: unknown, Unallocated: unknown,
		Reason: g.Reason, trouble: g.trouble, Fits: map[string]int{}, Tight: map[string]int{}, Measured: map[string]sizing.Measured{},
	}
	for _, m := range models {
		if m.Warm {
			fits, tight, took := g.fits(m)
			w.Fits[m.Name] = fits
			if tight > 0 {
				w.Tight[m.Name] = tight
			}
			if took.BesideBytes > 0 {
				w.Measured[m.Name] = took
			}
		}
	}
	if !g.Known {
		return w
	}
	whole := g.whole()
	w.Count, w.Idle, w.FreeGiB, w.Leaks = len(whole), g.idle(), g.freeGiB(), leaks
	if len(whole) > 0 {
		w.Name = whole[0].Name
	}
	for _, d := range whole {
		w.TotalBytes, w.UsableBytes = max(w.TotalBytes, d.TotalBytes), max(w.UsableBytes, d.UsableBytes)
	}
	if g.FreeKnown {
		w.Unallocated = g.Free
	}
	return w
}

// need returns what a replica of a model takes whose Size is known. It fails where vLLM refuses the model's arguments, as
// `stoker fit --check` does, and where it is not known how many GPUs a replica takes.
func (m modelState) need() (sizing.Need, error) {
	s := m.Model.Serving
	if err := m.Size.CheckLength(s); err != nil {
		return sizing.Need{}, fmt.Errorf("%w; ask for less (serving.maxModelLen)", err)
	}
	if doubt := s.DoubtGPUs(); doubt != "" {
		return sizing.Need{}, errors.New(doubt)
	}
	return m.Size.Need(s)
}

// fits returns how many replicas of a model could start now for certain, the least of what
// free memory and what unallocated GPUs allow, and how many more may start, or
// not; unknown where that cannot be told. Took is the most that replicas here were
// measured to take beside weights and cache.
func (g gpuFacts) fits(m modelState) (fits, tight int, took sizing.Measured) {
	if !g.Known || !g.FreeKnown || m.Size == nil {
		return unknown, 0, took
	}
	need, err := m.need()
	if err != nil {
		return unknown, 0, took
	}
	if g.Slices && need.AllGPUs() > 1 {
		return 0, 0, took // MIG devices do not work together
	}
	ready, perhaps := 0, 0
	for _, d := range g.whole() {
		memory := sizing.DeviceMemory{Name: d.Name, TotalBytes: d.TotalBytes, UsableBytes: d.UsableBytes}
		seen := g.Measured.Beside(m.Name, m.Revision, memory, need.TensorParallel, need.VLLMVersion)
		if seen.BesideBytes > took.BesideBytes {
			took = seen
		}
		switch verdict, _ := need.On(memory).VerdictMeasured(d.UsableBytes, d.FreeBytes, seen); verdict {
		case sizing.Fits:
			ready++
		case sizing.Tight:
			perhaps++
		case sizing.No, sizing.Unknown:
		}
	}
	free, each := max(0, g.Free), need.GPUsPerReplica()
	fits = min(ready, free) / each
	return fits, min(ready+perhaps, free)/each - fits, took
}
