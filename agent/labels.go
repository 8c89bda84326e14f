package agent

import (
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
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
	Devices []gpu.Device
	// Free is how many GPUs are given to no pod; known only with FreeKnown.
	Free      int
	FreeKnown bool
}

// whole returns the GPUs that can take work and whose memory is known: MIG
// devices are another resource, and their GPU takes no work itself.
func (g gpuFacts) whole() []gpu.Device {
	var out []gpu.Device
	for _, d := range g.Devices {
		if d.State == gpu.StateOK && d.MIG == nil {
			out = append(out, d)
		}
	}
	return out
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
func (g gpuFacts) freeGiB() uint64 {
	var most uint64
	for _, d := range g.whole() {
		most = max(most, d.FreeBytes)
	}
	return most / gib / freeStep * freeStep
}

// fits is how many replicas could start now: the least of what free memory and
// what unallocated GPUs allow. ok is false where that cannot be told.
func (g gpuFacts) fits(size *sizing.Model, s sizing.Serving) (replicas int, ok bool) {
	if !g.Known || !g.FreeKnown || size == nil {
		return 0, false
	}
	need, err := size.Need(s)
	if err != nil {
		return 0, false
	}
	ready := 0
	for _, d := range g.whole() {
		if need.Fits(d.TotalBytes, d.FreeBytes) {
			ready++
		}
	}
	per := max(1, s.TensorParallel)
	return min(ready, max(0, g.Free)) / per, true
}

// labels is what the Node's labels should be: every key that the agent owns.
// It is a pure function; what it leaves out disappears from the Node.
func labels(models []modelState, g gpuFacts) map[string]string {
	out := map[string]string{}
	for _, m := range models {
		if !m.Warm {
			continue
		}
		out[WarmPrefix+m.Name] = TierDisk
		if rev := shortRevision(m.Revision); rev != "" {
			out[RevPrefix+m.Name] = rev
		}
		if n, ok := g.fits(m.Size, m.Model.Serving); ok {
			out[FitsPrefix+m.Name] = strconv.Itoa(n)
		}
	}
	if g.Known {
		out[FreeGiBLabel] = strconv.FormatUint(g.freeGiB(), 10)
		out[IdleLabel] = strconv.Itoa(g.idle())
	}
	return out
}

// shortRevision is the revision as a label's value.
func shortRevision(revision string) string {
	return strings.Trim(revision[:min(len(revision), revLength)], "._-")
}
