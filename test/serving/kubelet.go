package serving

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kubelet is a stand-in for a kubelet's /metrics/resource, which metrics-server
// reads: how much CPU time each pod's container has used. No container runs; the
// time is what the pods are said to use. Its methods may be called from several
// goroutines at once.
type Kubelet struct {
	server *httptest.Server

	mu   sync.Mutex
	last time.Time
	pods map[PodContainer]*usage
}

// PodContainer names a container of a pod.
type PodContainer struct{ Namespace, Pod, Container string }

// usage is a container's: so many seconds so far, and so many cores from now on.
type usage struct{ seconds, cores float64 }

// NewKubelet starts serving on loopback, over TLS as a kubelet does, until Close.
func NewKubelet() *Kubelet {
	k := &Kubelet{last: time.Now(), pods: map[PodContainer]*usage{}}
	k.server = httptest.NewTLSServer(http.HandlerFunc(k.serve))
	return k
}

// Close ends the serving.
func (k *Kubelet) Close() { k.server.Close() }

// Address is host and port.
func (k *Kubelet) Address() string { return strings.TrimPrefix(k.server.URL, "https://") }

// Use says which containers there are from now on, and how many cores each keeps
// busy.
func (k *Kubelet) Use(cores map[PodContainer]float64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pass()
	maps.DeleteFunc(k.pods, func(c PodContainer, _ *usage) bool {
		_, there := cores[c]
		return !there
	})
	for c, n := range cores {
		if k.pods[c] == nil {
			// metrics-server takes 0 for a container that it knows nothing of yet.
			k.pods[c] = &usage{seconds: 1}
		}
		k.pods[c].cores = n
	}
}

// pass adds what was used since the last time; k.mu is held.
func (k *Kubelet) pass() {
	now := time.Now()
	for _, u := range k.pods {
		u.seconds += u.cores * now.Sub(k.last).Seconds()
	}
	k.last = now
}

func (k *Kubelet) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/metrics/resource" {
		http.NotFound(w, r)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pass()
	at := k.last.UnixMilli()
	containers := slices.SortedFunc(maps.Keys(k.pods), func(a, b PodContainer) int { return strings.Compare(a.Pod, b.Pod) })
	sum := 1.0
	var page strings.Builder
	page.WriteString("# TYPE container_cpu_usage_seconds_total counter\n")
	for _, c := range containers {
		sum += k.pods[c].seconds
		fmt.Fprintf(&page, "container_cpu_usage_seconds_total{container=%q,namespace=%q,pod=%q} %f %d\n", c.Container, c.Namespace, c.Pod, k.pods[c].seconds, at)
	}
	const memory = 16 << 30
	page.WriteString("# TYPE container_memory_working_set_bytes gauge\n")
	for _, c := range containers {
		fmt.Fprintf(&page, "container_memory_working_set_bytes{container=%q,namespace=%q,pod=%q} %d %d\n", c.Container, c.Namespace, c.Pod, memory, at)
	}
	fmt.Fprintf(&page, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total %f %d\n", sum, at)
	fmt.Fprintf(&page, "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes %d %d\n", memory*(1+len(containers)), at)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(page.String()))
}
