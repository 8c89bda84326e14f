package agent

import (
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/gpu"
)

// Rounding of what the labels say of GPUs.
const (
	gib          = 1 << 30
	freeStep     = 4    // GiB; smaller steps would churn the Node
	idleFraction = 0.92 // vLLM's default share of a GPU's memory
	revLength    = 12
)

// gpuFacts is what is known of the node's GPUs.
type gpuFacts struct {
	Known   bool
	Reason  string // why not
	trouble string // the kind of Reason
	Devices []gpu.Device
	// Slices: nvidia.com/gpu stands for MIG devices here, which then count as
	// GPUs do elsewhere, each by its own memory.
	Slices bool
	// Free is how many whole GPUs are given to no pod, Held whether any pod
	// here has a GPU or a part of one; both are known only with FreeKnown.
	Free      int
	Held      bool
	FreeKnown bool
	// Divided: nvidia.com/gpu stands for shares of GPUs, which several pods may have of one.
	Divided bool
	// Measured is what replicas on these GPUs took beside weights and cache.
	Measured measure.Book
}

// counts reports whether a device is one of those that nvidia.com/gpu stands for.
// Elsewhere than with Slices, MIG devices are another resource, and their GPU
// takes no work itself.
func (g gpuFacts) counts(d gpu.Device) bool { return g.Slices == (d.MIG != nil) }

// whole returns the GPUs, or slices, that can take work and whose memory is known.
func (g gpuFacts) whole() []gpu.Device {
	var out []gpu.Device
	for _, d := range g.Devices {
		if g.counts(d) && d.Usable() {
			out = append(out, d)
		}
	}
	return out
}

// there counts the GPUs, or slices, whatever their state.
func (g gpuFacts) there() int {
	n := 0
	for _, d := range g.Devices {
		if g.counts(d) {
			n++
		}
	}
	return n
}

// sound counts those that can take work, or could if the process on
// them were not there: a pod may hold those, and is counted itself.
func (g gpuFacts) sound() int {
	n := 0
	for _, d := range g.Devices {
		if g.counts(d) && (d.Usable() || d.Taken()) {
			n++
		}
	}
	return n
}

// idle counts the GPUs with at least idleFraction of their memory free.
func (g gpuFacts) idle() int {
	n := 0
	for _, d := range g.whole() {
		if d.TotalBytes > 0 && float64(d.FreeBytes) >= idleFraction*float64(d.TotalBytes) {
			n++
		}
	}
	return n
}

// freeGiB is the largest free memory on one GPU, rounded down to freeStep.
func (g gpuFacts) freeGiB() int {
	var most uint64
	for _, d := range g.whole() {
		most = max(most, d.FreeBytes)
	}
	return int(most / gib / freeStep * freeStep)
}

// labels is what the Node's labels should be: every key that the agent owns.
// It is a pure function; what it leaves out disappears from the Node.
func labels(models []modelState, w gpuWord) map[string]string {
	out := map[string]string{}
	for _, m := range models {
		if !m.Warm {
			continue
		}
		out[WarmPrefix+m.Name] = m.Tier
		if rev := shortRevision(m.Revision); rev != "" {
			out[RevPrefix+m.Name] = rev
		}
		if n, ok := w.fits(m.Name); ok {
			out[FitsPrefix+m.Name] = strconv.Itoa(n)
		}
	}
	if w.known() {
		out[FreeGiBLabel] = strconv.Itoa(w.FreeGiB)
		out[IdleLabel] = strconv.Itoa(w.Idle)
	}
	return out
}

// shortRevision is the revision as a label's value.
func shortRevision(revision string) string {
	return strings.Trim(revision[:min(len(revision), revLength)], "._-")
}
