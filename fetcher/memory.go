package fetcher

import (
	"math"
	"os"
	"strconv"
	"strings"
)

// memoryLimit is how much memory the page cache of this process may take at
// most: the machine's, or its cgroup's if that has less (the cache of what a
// process writes counts against it). Without any of these files, no limit.
func memoryLimit() int64 {
	limit := int64(math.MaxInt64)
	for _, path := range []string{
		"/sys/fs/cgroup/memory.max",                   // cgroup v2, as a container sees its own
		"/sys/fs/cgroup/memory/memory.limit_in_bytes", // v1
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return limit
	}
	return min(limit, memTotal(string(text)))
}

// memTotal reads the size of the machine's memory from /proc/meminfo's text.
func memTotal(text string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil && kib > 0 {
				return kib << 10
			}
		}
	}
	return math.MaxInt64
}
