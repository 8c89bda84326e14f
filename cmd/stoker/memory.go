package main

import (
	"os"
	"runtime/debug"

	"github.com/stoker-project/stoker/fetcher/headroom"
)

// heapShare is how much of the cgroup's limit the Go runtime tries to stay within: the
// rest is for what it does not count, as the executable's own pages.
const heapShare = 0.9

// limitMemory has garbage collected before the limit of the cgroup is reached, as
// GOMEMLIMIT does, which goes first: else a heap may grow to twice what is in use. It
// returns the limit in bytes, 0 where there is none or it is not known.
func limitMemory() int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return debug.SetMemoryLimit(-1)
	}
	state, _ := headroom.Read() // where it fails there is no limit
	if state.Limit == headroom.None {
		return 0
	}
	limit := int64(heapShare * float64(state.Limit))
	debug.SetMemoryLimit(limit)
	return limit
}
