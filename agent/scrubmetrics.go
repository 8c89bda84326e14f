package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrubMetrics is the scrub's part of the /metrics page, computed at scrape.
type scrubMetrics struct {
	seen func() scrubView
	warm func() map[string]bool // the names of warm models

	bytes, bad, last, age, expected, oldest *prometheus.Desc
}

func newScrubMetrics(seen func() scrubView, warm func() map[string]bool) *scrubMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("stoker_scrub_"+name, help, nil, nil)
	}
	return &scrubMetrics{
		seen: seen, warm: warm,
		bytes:    desc("read_bytes_total", "Bytes of published content that the scrub has read again."),
		bad:      desc("bad_blobs_total", "Blobs that the scrub found wrong or could not read."),
		last:     desc("last_cycle_seconds", "How long the last complete cycle took; absent before the first."),
		age:      desc("cycle_age_seconds", "Age of the cycle under way; absent while nothing is published."),
		expected: desc("expected_cycle_seconds", "How long a cycle takes with the settings in force: more than scrub.cycle where scrub.rate does not suffice."),
		oldest:   desc("oldest_read_timestamp_seconds", "Since when every blob of a warm model has been read whole and found right; absent without one."),
	}
}

// Describe makes scrubMetrics a prometheus.Collector.
func (m *scrubMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.bytes, m.bad, m.last, m.age, m.expected, m.oldest} {
		ch <- d
	}
}

// Collect computes the page's part.
func (m *scrubMetrics) Collect(ch chan<- prometheus.Metric) {
	v := m.seen()
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, value float64) {
		ch <- prometheus.MustNewConstMetric(d, kind, value)
	}
	tell(m.bytes, prometheus.CounterValue, float64(v.Bytes))
	tell(m.bad, prometheus.CounterValue, float64(v.Bad))
	if v.Last > 0 {
		tell(m.last, prometheus.GaugeValue, v.Last.Seconds())
	}
	if len(v.Blobs) > 0 {
		tell(m.age, prometheus.GaugeValue, time.Since(v.Started).Seconds())
		tell(m.expected, prometheus.GaugeValue, v.Expected.Seconds())
	}
	if at := v.oldest(m.warm()); !at.IsZero() {
		tell(m.oldest, prometheus.GaugeValue, float64(at.UnixMilli())/1000)
	}
}

// oldest is since when every blob of these models has been read whole: by the
// scrub, or when it was verified. Zero if there is none.
func (v scrubView) oldest(models map[string]bool) time.Time {
	var oldest time.Time
	for _, b := range v.Blobs {
		used := false
		for _, name := range b.Models {
			used = used || models[name]
		}
		read := v.Read[shelf(b.SHA256)]
		if b.VerifiedAt.After(read) {
			read = b.VerifiedAt
		}
		if used && !read.IsZero() && (oldest.IsZero() || read.Before(oldest)) {
			oldest = read
		}
	}
	return oldest
}

// scrubSeen is what is known of reading what is published again.
func (a *Agent) scrubSeen() scrubView {
	if a.inspect != nil {
		return a.inspect.seen().Scrub
	}
	return a.scrub.seen()
}

// warmNames are the models that the loop last knew to be warm.
func (a *Agent) warmNames() map[string]bool {
	warm := map[string]bool{}
	if s := a.shown.Load(); s != nil {
		for _, m := range s.models {
			if m.Warm {
				warm[m.Name] = true
			}
		}
	}
	return warm
}
