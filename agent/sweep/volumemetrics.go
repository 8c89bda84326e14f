package sweep

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// volumeMetrics are about the chart's volumes.
type volumeMetrics struct {
	// counts by state, as the last round found them; never changed once stored.
	counts  atomic.Pointer[map[volumeState]int]
	repairs *prometheus.CounterVec
	volumes *prometheus.Desc
}

func newVolumeMetrics() *volumeMetrics {
	m := &volumeMetrics{
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_sweep_volume_repairs_total", Help: "Tries to let a claim bind a volume again whose claim was deleted, by result.",
		}, []string{"result"}),
		volumes: prometheus.NewDesc("stoker_sweep_volumes",
			"The chart's volumes, by state: bound, released (names a deleted claim), unclaimed, deleting, missing, unknown.", []string{"state"}, nil),
	}
	for _, result := range []string{resultDone, resultFailed} {
		m.repairs.WithLabelValues(result)
	}
	return m
}

func (m *volumeMetrics) show(volumes []volumeMemory) {
	counts := map[volumeState]int{}
	for _, v := range volumes {
		counts[v.state]++
	}
	m.counts.Store(&counts)
}

func (m *volumeMetrics) repaired(result string) { m.repairs.WithLabelValues(result).Inc() }

// Describe makes volumeMetrics a prometheus.Collector.
func (m *volumeMetrics) Describe(ch chan<- *prometheus.Desc) {
	m.repairs.Describe(ch)
	ch <- m.volumes
}

// Collect computes the page.
func (m *volumeMetrics) Collect(ch chan<- prometheus.Metric) {
	m.repairs.Collect(ch)
	counts := *m.counts.Load()
	for _, s := range []volumeState{volumeBound, volumeReleased, volumeUnclaimed, volumeDeleting, volumeMissing, volumeUnknown} {
		ch <- prometheus.MustNewConstMetric(m.volumes, prometheus.GaugeValue, float64(counts[s]), string(s))
	}
}
