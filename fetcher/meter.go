package fetcher

import (
	"sync"
	"time"
)

// meter counts what a pull has done and reports it, one call at a time.
type meter struct {
	report func(Progress)

	mu      sync.Mutex // guards now and orders the calls of report
	now     Progress
	changed bool

	quit chan struct{}
	done chan struct{}
}

// reportEvery is how often progress is told while a phase lasts.
const reportEvery = 200 * time.Millisecond

func startMeter(report func(Progress)) *meter {
	m := &meter{report: report, quit: make(chan struct{}), done: make(chan struct{})}
	go m.loop()
	return m
}

func (m *meter) loop() {
	defer close(m.done)
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		select {
		case <-m.quit:
			return
		case <-ticker.C:
			m.mu.Lock()
			m.tell()
			m.mu.Unlock()
		}
	}
}

// tell reports if there is something new. m.mu is held.
func (m *meter) tell() {
	if m.changed && m.report != nil {
		m.report(m.now)
	}
	m.changed = false
}

func (m *meter) update(change func(*Progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.now)
	m.changed = true
}

func (m *meter) phase(phase string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Phase = phase
	m.changed = true
	m.tell()
}

func (m *meter) begin(revision string, bytes int64, files int) {
	m.update(func(p *Progress) { p.Revision, p.BytesTotal, p.FilesTotal = revision, bytes, files })
}

func (m *meter) add(bytes int64) { m.update(func(p *Progress) { p.BytesDone += bytes }) }

func (m *meter) filesDone(n int) { m.update(func(p *Progress) { p.FilesDone += n }) }

// stop reports the last state and ends the meter's goroutine.
func (m *meter) stop() {
	close(m.quit)
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell()
}
