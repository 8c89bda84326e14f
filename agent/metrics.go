package agent

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stoker-project/stoker/gpu"
)

// snapshot is what the loop last knew, for /metrics. It is never changed after
// it was published.
type snapshot struct {
	models   []modelState
	leaks    map[string]uint64 // bytes, by deviceKey
	store    answer[storeView]
	limits   StoreConfig
	reserved int64 // bytes that running pulls will still take
	rejected bool
	turn     time.Time
	memory   ramDecision
	// throttled is until when hosts answer no more requests.
	throttled map[string]time.Time
}

// metrics is the /metrics page. What is state is computed at scrape from the
// loop's last snapshot, so that no series of a model that is gone stays;
// counters and the histogram are kept.
type metrics struct {
	load    func() *snapshot
	reading func() (devices []gpu.Device, asked time.Time, known bool)

	durations *prometheus.HistogramVec
	bytes     prometheus.Counter
	writes    *prometheus.CounterVec

	state, modelBytes, done, total, rate, warm *prometheus.Desc
	gpuMemory, gpuLeaked, gpuState             *prometheus.Desc
	gpuKnown, gpuAge                           *prometheus.Desc
	storeKnown, storeBytes, diskFree, diskSize *prometheus.Desc
	storeRoom, storeReserved, storeQuota       *prometheus.Desc
	storeReadOnly                              *prometheus.Desc
	rejected, turn, throttled                  *prometheus.Desc
}

func newMetrics(load func() *snapshot, reading func() ([]gpu.Device, time.Time, bool)) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("stoker_"+name, help, labels, nil)
	}
	return &metrics{
		load: load, reading: reading,
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "stoker_pull_duration_seconds", Help: "How long pulls took, by how they ended.",
			Buckets: []float64{1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 2700, 3600},
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stoker_pulled_bytes_total", Help: "Bytes downloaded by pulls that succeeded.",
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_api_writes_total", Help: "Writes to the API server, by object and result.",
		}, []string{"object", "result"}),
		state:         desc("model_state", "1 for the state that the model is in.", "model", "state"),
		modelBytes:    desc("model_bytes", "Size of the published revision.", "model"),
		done:          desc("pull_done_bytes", "Bytes of the running pull that are in the store.", "model"),
		total:         desc("pull_size_bytes", "Bytes of the revision that is being pulled.", "model"),
		rate:          desc("pull_rate_bytes_per_second", "Rate of the running pull.", "model"),
		warm:          desc("model_warm", "1 if the label says that the model is warm, else 0.", "model"),
		gpuMemory:     desc("gpu_memory_bytes", "Memory of each GPU and MIG device by the last reading, by state; absent where unknown.", "index", "mig", "uuid", "state"),
		gpuLeaked:     desc("gpu_leaked_bytes", "Memory reported as in use though no pod here has a GPU; absent where unknown.", "index", "mig", "uuid"),
		gpuState:      desc("gpu_state", "1 for the state that the GPU or MIG device is in.", "index", "mig", "uuid", "state"),
		gpuKnown:      desc("gpus_known", "1 if the GPUs can be read and the last reading is recent."),
		gpuAge:        desc("gpu_reading_age_seconds", "Age of the last reading of the GPUs."),
		storeKnown:    desc("store_known", "1 if the store can be read."),
		storeBytes:    desc("store_bytes", "Bytes that models and transfers take in the store."),
		diskFree:      desc("store_filesystem_free_bytes", "Free bytes of the store's file system."),
		diskSize:      desc("store_filesystem_size_bytes", "Size of the store's file system."),
		storeRoom:     desc("store_room_bytes", "Bytes that a pull which starts now may take, before the quota or the reserve is crossed; negative if it is."),
		storeReserved: desc("store_reserved_bytes", "Bytes that running pulls will still take."),
		storeQuota:    desc("store_quota_bytes", "Most that the store may hold; absent without a quota."),
		storeReadOnly: desc("store_readonly", "1 if nothing can be written to the store's file system."),
		rejected:      desc("list_rejected", "1 if the model list on file is not in force because it is not valid."),
		throttled:     desc("source_throttled_until_timestamp_seconds", "When the quota of a source's host is renewed that is used up; absent while there is some left.", "host"),
		turn:          desc("loop_last_turn_timestamp_seconds", "When the loop last turned."),
	}
}

func (m *metrics) eventWritten(ok bool) { m.writes.WithLabelValues("event", result(ok)).Inc() }
func (m *metrics) nodeWritten(ok bool)  { m.writes.WithLabelValues("node", result(ok)).Inc() }

// pulled counts a pull that ended.
func (m *metrics) pulled(out outcome) {
	m.durations.WithLabelValues(result(out.Err == nil)).Observe(out.Duration.Seconds())
	m.bytes.Add(float64(out.Result.DownloadedBytes))
}

func result(ok bool) string {
	if ok {
		return "ok"
	}
	return "failed"
}

// Describe makes metrics a prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.durations.Describe(ch)
	m.bytes.Describe(ch)
	m.writes.Describe(ch)
	for _, d := range []*prometheus.Desc{
		m.state, m.modelBytes, m.done, m.total, m.rate, m.warm, m.gpuMemory, m.gpuLeaked, m.gpuState, m.gpuKnown, m.gpuAge,
		m.storeKnown, m.storeBytes, m.diskFree, m.diskSize, m.storeRoom, m.storeReserved, m.storeQuota, m.storeReadOnly, m.rejected, m.turn, m.throttled,
	} {
		ch <- d
	}
}

// Collect computes the page.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.durations.Collect(ch)
	m.bytes.Collect(ch)
	m.writes.Collect(ch)
	s := m.load()
	if s == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, model := range s.models {
		gauge(m.state, 1, model.Name, string(model.State))
		gauge(m.warm, truth(model.Warm), model.Name)
		if model.Revision != "" {
			gauge(m.modelBytes, float64(model.Bytes), model.Name)
		}
		if p := model.Progress; p != nil && !p.Lookup {
			gauge(m.done, float64(p.Done), model.Name)
			gauge(m.total, float64(p.Total), model.Name)
			gauge(m.rate, float64(p.Rate), model.Name)
		}
	}
	m.collectGPUs(s, gauge)
	gauge(m.storeKnown, truth(s.store.Known))
	if s.store.Known {
		gauge(m.storeBytes, float64(s.store.Value.Usage.StoreBytes))
		gauge(m.diskFree, float64(s.store.Value.Usage.FreeBytes))
		gauge(m.diskSize, float64(s.store.Value.Usage.TotalBytes))
		gauge(m.storeReadOnly, truth(s.store.Value.Usage.ReadOnly))
		room, _ := s.limits.room(s.store.Value.Usage)
		gauge(m.storeRoom, float64(room-s.reserved))
		gauge(m.storeReserved, float64(s.reserved))
	}
	if s.limits.Quota > 0 {
		gauge(m.storeQuota, float64(s.limits.Quota))
	}
	for host, until := range s.throttled {
		gauge(m.throttled, float64(until.UnixNano())/1e9, host)
	}
	gauge(m.rejected, truth(s.rejected))
	gauge(m.turn, float64(s.turn.UnixNano())/1e9)
}

// collectGPUs computes the GPUs' part from the last reading, not from the loop's
// snapshot: it tells for itself when it is too old.
func (m *metrics) collectGPUs(s *snapshot, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	devices, asked, known := m.reading()
	gauge(m.gpuKnown, truth(known))
	if !known {
		return
	}
	gauge(m.gpuAge, time.Since(asked).Seconds())
	for _, d := range devices {
		index, mig := strconv.Itoa(d.Index), migSlot(d)
		gauge(m.gpuState, 1, index, mig, d.UUID, string(d.State))
		if d.TotalBytes == 0 || (d.State != gpu.StateOK && d.State != gpu.StatePartitioned) {
			continue // its numbers are zero because they are not known
		}
		gauge(m.gpuMemory, float64(d.FreeBytes), index, mig, d.UUID, "free")
		gauge(m.gpuMemory, float64(d.UsedBytes), index, mig, d.UUID, "used")
		gauge(m.gpuMemory, float64(d.TotalBytes), index, mig, d.UUID, "total")
		if d.ReservedBytes > 0 { // else the driver does not tell it apart
			gauge(m.gpuMemory, float64(d.ReservedBytes), index, mig, d.UUID, "reserved")
		}
		if d.State == gpu.StateOK {
			gauge(m.gpuLeaked, float64(min(s.leaks[deviceKey(d)], d.UsedBytes)), index, mig, d.UUID)
		}
	}
}

// reading is the last reading of the GPUs, if it can still be believed.
func (a *Agent) reading() (devices []gpu.Device, asked time.Time, known bool) {
	now := time.Now()
	got := a.devices.latest()
	return got.Value, got.Asked, got.Known && now.Sub(got.Asked) < a.stale()
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// show publishes what the loop knows to those who scrape.
func (a *Agent) show(f facts, d decision) {
	leaked := map[string]uint64{}
	for key, leak := range a.loop.leaks.told {
		leaked[key] = leak.Bytes
	}
	var reserved int64
	for _, left := range a.pulls.taking() {
		reserved += left
	}
	a.shown.Store(&snapshot{
		models: d.Models, leaks: leaked, store: f.Store, limits: f.Limits, reserved: reserved,
		rejected: a.loop.rejected != "", turn: f.Now, memory: d.Memory, throttled: a.loop.throttled.byHost(),
	})
}
