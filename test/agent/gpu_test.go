package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

// scrape is the agent's /metrics page.
func scrape(a *agent.Agent) string {
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	return w.Body.String()
}

// A GPU is full though nobody on the node has asked for one: told by event,
// annotation and metric, but not while a pod may be the one that uses it.
func testLeak(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.gpus = "simulated:dgxh200,free.0=10GiB"
	b.config("models: []" + strings.Replace(intervals, "gpu: 1s", "gpu: 1s, gpuLeak: 2s", 1))
	b.gpuPod("holds-"+b.node, "", 1)
	a := b.start()
	b.waitLabel(agent.IdleLabel, "7")
	leaking := func(page string) bool {
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "stoker_gpu_leaked_bytes{") && !strings.HasSuffix(line, " 0\n") {
				return true
			}
		}
		return false
	}
	b.waitBeats(5 * time.Second) // more than it takes to be a leak, and to be told
	if g := b.status().GPUs; len(g.Leaks) != 0 || leaking(scrape(a)) {
		t.Errorf("a leak was told while a pod has a GPU: %+v", g)
	}

	if err := b.client.CoreV1().Pods(namespace).Delete(t.Context(), "holds-"+b.node, *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	e := b.waitEvent(agent.EventGPUMemoryLeaked, func(e eventsv1.Event) bool { return e.Type == corev1.EventTypeWarning })
	if !strings.HasPrefix(e.Note, "GPU 0: 131.0 GiB are in use") || !strings.Contains(e.Note, "nvidia-smi") {
		t.Errorf("the event says %q", e.Note)
	}
	b.wait("the annotation to say so", func(*corev1.Node) bool { return len(b.status().GPUs.Leaks) == 1 })
	leak := b.status().GPUs.Leaks[0]
	if leak.Index != 0 || leak.Bytes != 131<<30 || !strings.Contains(e.Note, leak.UUID) || time.Since(time.Unix(leak.Since, 0)) > time.Minute {
		t.Errorf("the annotation says %+v", leak)
	}
	page := scrape(a)
	for _, line := range []string{
		`stoker_gpu_leaked_bytes{index="0",mig="",uuid="` + leak.UUID + `"} 1.40660178944e+11`,
		`stoker_gpu_memory_bytes{index="0",mig="",state="free",uuid="` + leak.UUID + `"} 1.073741824e+10`,
		"stoker_gpus_known 1",
	} {
		if !strings.Contains(page, line+"\n") {
			t.Errorf("/metrics lacks %s", line)
		}
	}

	b.board("simulated:dgxh200")
	b.waitEvent(agent.EventGPUMemoryFreed, func(e eventsv1.Event) bool { return strings.HasPrefix(e.Note, "GPU 0: ") })
	b.wait("the annotation to take it back", func(*corev1.Node) bool { return len(b.status().GPUs.Leaks) == 0 })
	b.waitLabel(agent.IdleLabel, "8")
	if leaking(scrape(a)) {
		t.Error("the metric still says it")
	}
}

// Free memory goes up and down, each time for long enough to be told: the Node
// is written no more often than intervals.gpu says, and what it says in the end
// is true.
func testJitter(t *testing.T, c *cluster.Cluster) {
	const every, change, changes = 3 * time.Second, 1500 * time.Millisecond, 10
	b := newBench(t, c)
	b.config("models: []" + strings.Replace(intervals, "gpu: 1s, gpuRise: 1s", "gpu: "+every.String()+", gpuRise: 200ms", 1))
	b.gpuPod("holds-"+b.node, "", 8) // so that nothing is a leak
	b.start()
	b.waitLabel(agent.IdleLabel, "8")
	b.wait("what pods hold", func(*corev1.Node) bool { n := b.status().GPUs.Unallocated; return n != nil && *n == 0 })
	seen := b.watch()
	began := time.Now()
	ticker := time.NewTicker(change)
	defer ticker.Stop()
	for i := range changes {
		b.board("simulated:dgxh200" + []string{",free=4GiB", ""}[i%2])
		<-ticker.C
	}
	b.board("simulated:dgxh200,free=9GiB")
	b.waitLabel(agent.FreeGiBLabel, "8")
	took := time.Since(began)
	writes := seen.count() - 1 // the last one is the watcher's own
	t.Logf("%d writes in %s, of %d changes", writes, took.Round(time.Second), changes+1)
	if limit := int(took/every) + 1; writes < 2 || writes > limit {
		t.Errorf("%d writes in %s, want 2 to %d", writes, took, limit)
	}
	b.waitLabel(agent.IdleLabel, "0")
}
