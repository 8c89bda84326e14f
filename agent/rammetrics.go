package agent

import (
	"github.com/prometheus/client_golang/prometheus"
)

// ramMetrics is what the /metrics page says of models in memory and of how fast
// the volume reads, computed at scrape.
type ramMetrics struct {
	load  func() *snapshot
	seen  func() ramView
	speed func() measuredSpeed

	resident, state, loading      *prometheus.Desc
	budget, taken, read           *prometheus.Desc
	available, limit, rate, rated *prometheus.Desc
}

func newRAMMetrics(load func() *snapshot, seen func() ramView, speed func() measuredSpeed) *ramMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("stoker_"+name, help, labels, nil)
	}
	return &ramMetrics{
		load: load, seen: seen, speed: speed,
		resident:  desc("model_resident_bytes", "Bytes of a model with ram: true that are in memory; absent where that is not measured.", "model"),
		state:     desc("model_ram_state", "1 for what becomes of a model with ram: true: resident, or why it is not.", "model", "state"),
		loading:   desc("model_load_seconds", "About how long it takes to read what of a warm model is not in memory; absent where the volume's speed is not known.", "model"),
		budget:    desc("ram_budget_bytes", "How much of models may be held in memory now, and what bounds that.", "bound"),
		taken:     desc("ram_taken_bytes", "How much of it the models take that are held there."),
		read:      desc("ram_read_bytes_total", "Bytes of models that were read into memory."),
		available: desc("memory_available_bytes", "Memory of the machine that could be taken without swapping, when it was last looked at; absent without a model with ram: true."),
		limit:     desc("memory_limit_bytes", "Least memory limit of the agent's cgroups; absent without one."),
		rate:      desc("store_read_bytes_per_second", "How fast the store's volume reads what is not in memory: the median of what was measured, by bytes; absent where it was not."),
		rated:     desc("store_read_timestamp_seconds", "When that was last measured."),
	}
}

func (m *ramMetrics) all() []*prometheus.Desc {
	return []*prometheus.Desc{m.resident, m.state, m.loading, m.budget, m.taken, m.read, m.available, m.limit, m.rate, m.rated}
}

// Describe makes ramMetrics a prometheus.Collector.
func (m *ramMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.all() {
		ch <- d
	}
}

// Collect computes the page's part.
func (m *ramMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	view, speed := m.seen(), m.speed()
	ch <- prometheus.MustNewConstMetric(m.read, prometheus.CounterValue, float64(view.Read))
	if view.Measured && view.MemoryErr == nil {
		gauge(m.available, float64(view.Memory.Available))
		if view.Memory.Limit != noLimit {
			gauge(m.limit, float64(view.Memory.Limit))
		}
	}
	if speed.Rate > 0 {
		gauge(m.rate, float64(speed.Rate))
		gauge(m.rated, float64(speed.At.UnixMilli())/1000)
	}
	s := m.load()
	if s == nil {
		return
	}
	if s.memory.Budget.Bound != "" {
		gauge(m.budget, float64(s.memory.Budget.Bytes), s.memory.Budget.Bound)
		gauge(m.taken, float64(s.memory.Taken))
	}
	for _, model := range s.models {
		if !model.Warm {
			continue
		}
		if model.RAMState != "" {
			gauge(m.state, 1, model.Name, model.RAMState)
		}
		if r, ok := view.Resident[model.Name]; ok && r.Revision == model.Revision && r.Err == nil {
			gauge(m.resident, float64(r.Bytes), model.Name)
		}
		if speed.Rate > 0 {
			gauge(m.loading, float64(max(0, model.Bytes-model.Resident))/float64(speed.Rate), model.Name)
		}
	}
}
