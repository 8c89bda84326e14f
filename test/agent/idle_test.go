package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// What the agent costs a node, as a process of the real binary with default
// settings against the real API server. `make bench-agent` runs both.

const (
	manyModels = 50
	manyFiles  = 200
	// idleFor spans two of every default interval below a minute.
	idleFor = time.Minute
)

// BenchmarkIdle reports what an agent takes when 50 models of 200 files are
// warm and nothing changes: the share of one CPU, children counted, and
// memory: resident, and of that what is not a file's. The rest is the
// executable in the page cache, which newer kernels map whole, in huge pages.
func BenchmarkIdle(b *testing.B) { idle(b, "") }

// BenchmarkIdleInMemory is the same with all of them held in memory.
func BenchmarkIdleInMemory(b *testing.B) { idle(b, ", ram: true") }

func idle(b *testing.B, more string) {
	b.Helper()
	p := newProcess(b, startCluster(b), "idle")
	var list strings.Builder
	for i := range manyModels {
		dir := filepath.Join(p.dir, "sources", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range manyFiles {
			name := filepath.Join(dir, fmt.Sprintf("model-%05d-of-%05d.safetensors", j+1, manyFiles))
			if err := os.WriteFile(name, fmt.Appendf(nil, "model %d file %d", i, j), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		fmt.Fprintf(&list, "- {name: m%d, source: 'file://%s'%s}\n", i, dir, more)
	}
	p.start("models:\n" + list.String() + "store: {reserve: 0%}\nram: {budget: 1Gi}\n")
	p.waitWarm(manyModels)
	var peak int64
	begin, cpu := time.Now(), p.cpu()
	for time.Since(begin) < idleFor {
		peak = max(peak, p.memory("VmRSS"))
		time.Sleep(time.Second) // a sample a second; nothing waits for it
	}
	b.ReportMetric(100*(p.cpu()-cpu).Seconds()/time.Since(begin).Seconds(), "%CPU")
	b.ReportMetric(float64(peak)/(1<<20), "MiB-resident")
	b.ReportMetric(float64(p.memory("RssAnon"))/(1<<20), "MiB-private")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPulling reports the peak of resident memory while an agent pulls two
// models of 1 GiB at once.
func BenchmarkPulling(b *testing.B) {
	p := newProcess(b, startCluster(b), "idle")
	hub := fetchertest.StartHub(b, fetchertest.HubOptions{})
	var list strings.Builder
	for i := range uint64(2) {
		tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(i, 1<<30, 4))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := hub.Push(b.Context(), fmt.Sprintf("org/m%d", i), "main", tree); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(&list, "- {name: m%d, source: 'hf://org/m%d', endpoint: '%s'}\n", i, i, hub.URL())
	}
	p.start("models:\n" + list.String() + "store: {reserve: 0%}\n")
	p.waitWarm(2)
	b.ReportMetric(float64(p.memory("VmHWM"))/(1<<20), "MiB-peak")
	b.ReportMetric(0, "ns/op")
}
