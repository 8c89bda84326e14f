package serving

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Names says which names a release of vLLM gives its metrics. They are those of
// vllm/v1/metrics/loggers.py at these tags.
type Names int

const (
	// Before is up to v0.9.1: vllm:gpu_cache_usage_perc.
	Before Names = iota
	// Between is v0.9.2 to v0.10: that name and vllm:kv_cache_usage_perc.
	Between
	// Since is v0.12 and later (v0.11 hides the old names): only the new ones, and
	// vllm:inter_token_latency_seconds for vllm:time_per_output_token_seconds.
	Since
	// Renamed is no release: the queue has yet another name, as some day it may.
	Renamed
)

// Load is what one engine of a replica feels.
type Load struct {
	Running, Waiting float64
	// KVCache is the share of the cache that is in use, 0 to 1.
	KVCache float64
	// Preemptions and Tokens are counted since the start; FirstToken has the time
	// of each request until its first token, in seconds.
	Preemptions, Tokens float64
	FirstToken          []float64
}

// maxRunning is how many requests vLLM's batch holds by default (--max-num-seqs,
// of most GPUs).
const maxRunning = 256

// Cores is how many CPU cores a replica keeps busy, as far as vLLM's source says
// it; nothing of it was measured. One is the engine's: its loop (run_busy_loop in
// vllm/v1/engine/core.py) waits for its queue only while there is no request at
// all, and goes from step to step while there is one, or hundreds. The other
// process is the API server, which turns tokens into answers: at most one core,
// taken here to grow with the batch, which is as much as one could wish a CPU to
// tell. Requests that wait cost neither of them anything.
func (l Load) Cores() float64 {
	if l.Running == 0 {
		return 0.05
	}
	return 1 + min(1, l.Running/maxRunning)
}

// Page is /metrics as vLLM writes it by Python's prometheus_client: one series
// for each engine of the replica.
func Page(names Names, model string, engines ...Load) string {
	p := page{model: model, engines: engines}
	p.metric("gauge", "vllm:num_requests_running", "Number of requests in model execution batches.", func(l Load) float64 { return l.Running })
	waiting := "vllm:num_requests_waiting"
	if names == Renamed {
		waiting = "vllm:num_requests_queued"
	}
	p.metric("gauge", waiting, "Number of requests waiting to be processed.", func(l Load) float64 { return l.Waiting })
	cache := func(l Load) float64 { return l.KVCache }
	if names <= Between {
		p.metric("gauge", "vllm:gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", cache)
	}
	if names >= Between {
		p.metric("gauge", "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", cache)
	}
	p.metric("counter", "vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", func(l Load) float64 { return l.Preemptions })
	p.metric("counter", "vllm:prompt_tokens_total", "Number of prefill tokens processed.", func(l Load) float64 { return l.Tokens })
	p.metric("counter", "vllm:generation_tokens_total", "Number of generation tokens processed.", func(l Load) float64 { return l.Tokens })
	p.finished()
	first := func(l Load) []float64 { return l.FirstToken }
	p.histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
		[]float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}, first)
	between, help := "vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds."
	if names <= Between {
		between, help = "vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds."
	}
	p.histogram(between, help, []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}, first)
	p.histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.",
		[]float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}, first)
	return p.String()
}

type page struct {
	strings.Builder
	model   string
	engines []Load
}

func (p *page) head(kind, name, help string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (p *page) sample(name string, engine int, value float64, further ...string) {
	labels := append([]string{"engine", strconv.Itoa(engine)}, further...)
	labels = append(labels, "model_name", p.model)
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	fmt.Fprintf(p, "%s{%s} %s\n", name, strings.Join(pairs, ","), strconv.FormatFloat(value, 'f', -1, 64))
}

func (p *page) metric(kind, name, help string, value func(Load) float64) {
	p.head(kind, name, help)
	for i, l := range p.engines {
		p.sample(name, i, value(l))
	}
}

// finished has a series for each way in which requests end.
func (p *page) finished() {
	p.head("counter", "vllm:request_success_total", "Count of successfully processed requests.")
	for i, l := range p.engines {
		for _, reason := range []string{"stop", "length", "abort"} {
			p.sample("vllm:request_success_total", i, float64(len(l.FirstToken)), "finished_reason", reason)
		}
	}
}

func (p *page) histogram(name, help string, buckets []float64, values func(Load) []float64) {
	p.head("histogram", name, help)
	for i, l := range p.engines {
		all := values(l)
		sum := 0.0
		for _, v := range all {
			sum += v
		}
		for _, bucket := range buckets {
			below := 0
			for _, v := range all {
				if v <= bucket {
					below++
				}
			}
			// Python writes whole numbers with a digit behind the point, and so are the labels.
			le := strconv.FormatFloat(bucket, 'f', -1, 64)
			if !strings.Contains(le, ".") {
				le += ".0"
			}
			p.sample(name+"_bucket", i, float64(below), "le", le)
		}
		p.sample(name+"_bucket", i, float64(len(all)), "le", "+Inf")
		p.sample(name+"_count", i, float64(len(all)))
		p.sample(name+"_sum", i, sum)
	}
}

// Replicas serves the pages of any number of pods, each at /NAME/metrics, from
// one process. Its methods may be called from several goroutines at once.
type Replicas struct {
	server *httptest.Server

	mu    sync.Mutex
	pages map[string]func() string
}

// NewReplicas starts serving on loopback, until Close.
func NewReplicas() *Replicas {
	r := &Replicas{pages: map[string]func() string{}}
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	return r
}

// Close ends the serving.
func (r *Replicas) Close() { r.server.Close() }

// Address is host and port.
func (r *Replicas) Address() string { return strings.TrimPrefix(r.server.URL, "http://") }

// URL is where a pod's page is.
func (r *Replicas) URL(pod string) string { return r.server.URL + "/" + pod + "/metrics" }

// Set replaces what a pod answers, made for each request; "" as a page is a pod
// that does not serve yet.
func (r *Replicas) Set(pod string, page func() string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pages[pod] = page
}

// Keep forgets every pod but these.
func (r *Replicas) Keep(pods map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.pages, func(name string, _ func() string) bool { return !pods[name] })
}

// Pods are the names of those that there are.
func (r *Replicas) Pods() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.pages))
}

func (r *Replicas) serve(w http.ResponseWriter, request *http.Request) {
	name := strings.TrimSuffix(strings.TrimPrefix(request.URL.Path, "/"), "/metrics")
	r.mu.Lock()
	write := r.pages[name]
	r.mu.Unlock()
	page := ""
	if write != nil {
		page = write()
	}
	if page == "" {
		http.Error(w, "it does not serve yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(page))
}
