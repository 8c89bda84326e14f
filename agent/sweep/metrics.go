package sweep

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// shown is what the last round found, for those who scrape; never changed after
// it was published.
type shown struct {
	// Ready says that the state of the cluster is known; else the counts are 0.
	Ready               bool
	Labelled, Bare, Due int
	Slow                bool
	Round               time.Time
}

// metrics is the /metrics page: counts of the last round, computed at scrape,
// and what was done since the start.
type metrics struct {
	load        func() *shown
	withdrawals *prometheus.CounterVec

	nodes, known, slow, round *prometheus.Desc
}

func newMetrics(load func() *shown) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("stoker_sweep_"+name, help, labels, nil)
	}
	m := &metrics{
		load: load,
		withdrawals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_sweep_withdrawals_total", Help: "Tries to take a node's labels back, by result.",
		}, []string{"result"}),
		nodes: desc("nodes", "Nodes with labels of an agent, by state: attended, unattended, and due for removal (of the unattended); absent where unknown.", "state"),
		known: desc("state_known", "1 if the API server answers and nodes and pods are known."),
		slow:  desc("slow", "1 if labels are taken back slowly because too many nodes have no ready agent."),
		round: desc("last_round_timestamp_seconds", "When the sweeper last looked."),
	}
	for _, result := range []string{resultDone, resultRefuted, resultConflict, resultFailed} {
		m.withdrawals.WithLabelValues(result)
	}
	return m
}

func (m *metrics) counted(result string) { m.withdrawals.WithLabelValues(result).Inc() }

// Describe makes metrics a prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.withdrawals.Describe(ch)
	for _, d := range []*prometheus.Desc{m.nodes, m.known, m.slow, m.round} {
		ch <- d
	}
}

// Collect computes the page.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.withdrawals.Collect(ch)
	s := m.load()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	truth := map[bool]float64{true: 1}
	gauge(m.known, truth[s.Ready])
	gauge(m.slow, truth[s.Slow])
	gauge(m.round, float64(s.Round.UnixNano())/1e9)
	if s.Ready {
		gauge(m.nodes, float64(s.Labelled-s.Bare), "attended")
		gauge(m.nodes, float64(s.Bare), "unattended")
		gauge(m.nodes, float64(s.Due), "due")
	}
}
