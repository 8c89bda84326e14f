package agent

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
)

// reads makes a reading the agent's last one.
func (b *bench) reads(asked time.Time, list ...gpu.Device) {
	b.agent.devices.mu.Lock()
	defer b.agent.devices.mu.Unlock()
	b.agent.devices.last = answer[[]gpu.Device]{Known: true, Value: list, Gen: 1, Asked: asked}
}

// page scrapes what the agent's own collector says.
func page(t *testing.T, a *Agent) string {
	t.Helper()
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "stoker_") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestMetricsPage(t *testing.T) { synctest.Test(t, testMetricsPage) }

func testMetricsPage(t *testing.T) {
	b := newBench(t, "models: []")
	warm := warmModel("warm", 1)
	warm.Bytes = 1500
	resident, full := warmModel("in-ram", 1), warmModel("no-ram", 1)
	resident.Bytes, resident.Resident, resident.Tier, resident.RAMState = 1000, 990, TierRAM, RAMResident
	full.Bytes, full.RAMState = 5000, RAMOverPods
	b.agent.shown.Store(&snapshot{
		models: []modelState{
			{Name: "pulling", State: StatePulling, Progress: &pulling{Done: 100, Total: 1100, Rate: 50}},
			warm, resident, full,
		},
		memory: ramDecision{Budget: ramBudget{Bytes: 4096, Bound: RAMOverPods}, Taken: 1000},
		leaks:  map[string]uint64{"MIG-4": 7 * gib},
		store:  answer[storeView]{Known: true, Value: storeView{Usage: store.Usage{StoreBytes: 1, FreeBytes: 2, TotalBytes: 3}}},
		limits: StoreConfig{Quota: 10, Reserve: Share{Bytes: 1}}, reserved: 5, rejected: true, turn: noon,
		throttled: map[string]time.Time{"huggingface.co": noon},
	})
	list := devices(79, 10)
	list[0].UUID, list[0].ReservedBytes, list[0].UsedBytes = "GPU-0", gib/2, gib/2
	b.reads(
		time.Now().Add(-2*time.Second), list[0], list[1],
		gpu.Device{Index: 2, UUID: "GPU-2", State: gpu.StateLost},
		gpu.Device{Index: 3, UUID: "GPU-3", State: gpu.StatePartitioned},
		gpu.Device{
			Index: 3, UUID: "MIG-4", State: gpu.StateOK, MIG: &gpu.MIG{ParentUUID: "GPU-3", Index: 4},
			TotalBytes: 20 * gib, FreeBytes: 12 * gib, UsedBytes: 8 * gib,
		},
	)
	b.agent.speed.known = measuredSpeed{Rate: 512, At: noon}
	b.agent.warmer.view = ramView{
		Measured: true, Memory: headroom.State{Total: 10000, Available: 7000, Limit: 6000}, Read: 123,
		Resident: map[string]residency{"in-ram": {Revision: commit, Bytes: 990, Size: 1000}, "no-ram": {Revision: "another", Bytes: 1, Size: 2}},
	}
	b.agent.metrics.pulled(outcome{Duration: 42 * time.Second, Result: fetcher.Result{DownloadedBytes: 1500}})
	b.agent.metrics.nodeWritten(true)
	b.agent.metrics.eventWritten(false)
	golden(t, "metrics.txt", page(t, b.agent))
	for _, collector := range []prometheus.Collector{b.agent.metrics, newRAMMetrics(b.agent.shown.Load, b.agent.warmer.seen, b.agent.speed.now)} {
		problems, err := testutil.CollectAndLint(collector)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}

	// A reading that is too old is none, and a zero would be a lie.
	b.reads(time.Now().Add(-time.Hour), list...)
	if got := page(t, b.agent); strings.Contains(got, "stoker_gpu_") || !strings.Contains(got, "stoker_gpus_known 0") {
		t.Errorf("series of a reading that is an hour old:\n%s", got)
	}

	// A model that is gone leaves no series behind.
	b.agent.shown.Store(&snapshot{})
	if got := page(t, b.agent); slices.ContainsFunc(strings.Split(got, "\n"), func(l string) bool { return strings.Contains(l, `model="`) }) {
		t.Errorf("series of a model that is gone:\n%s", got)
	}
}

func TestHealth(t *testing.T) {
	b := newBench(t, "models: []")
	ask := func(path string) int {
		t.Helper()
		w := httptest.NewRecorder()
		b.agent.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w.Code
	}
	b.agent.turned.Store(time.Now().UnixNano())
	if got := ask("/healthz"); got != http.StatusOK {
		t.Errorf("healthz is %d while the loop turns", got)
	}
	b.agent.turned.Store(time.Now().Add(-2 * time.Minute).UnixNano())
	if got := ask("/healthz"); got != http.StatusServiceUnavailable {
		t.Errorf("healthz is %d though the loop has not turned for two minutes", got)
	}
	if got := ask("/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("readyz is %d before anything was said", got)
	}
	b.agent.ready.Store(true)
	if got := ask("/readyz"); got != http.StatusOK {
		t.Errorf("readyz is %d", got)
	}
}
