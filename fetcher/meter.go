package fetcher

import (
	"sync"
	"time"
)

// meter counts what a pull has done and reports it, one call at a time.
type meter struct {
	report func(Progress)
	// other is how far the pull is that this one waits for.
	other func() (Progress, bool)

	mu      sync.Mutex // guards now and orders the calls of report
	now     Progress
	changed bool

	// publish, if set, tells others how far this pull is.
	publish   func(Progress)
	published time.Time

	quit chan struct{}
	done chan struct{}
}

// publishEvery is how often other pulls are told.
const publishEvery = time.Second

// reportEvery is how often progress is told while a phase lasts.
const reportEvery = 200 * time.Millisecond

func startMeter(report func(Progress), other func() (Progress, bool)) *meter {
	m := &meter{report: report, other: other, quit: make(chan struct{}), done: make(chan struct{})}
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
		case now := <-ticker.C:
			m.tick(now)
		}
	}
}

func (m *meter) tick(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now.Phase == PhaseWaiting {
		if p, ok := m.other(); ok {
			p.Phase = PhaseWaiting
			m.now, m.changed = p, true
		}
	}
	if m.publish != nil && m.changed && now.Sub(m.published) >= publishEvery {
		m.published = now
		m.publish(m.now)
	}
	m.tell()
}

// working ends the waiting: from now on others are told.
func (m *meter) working(publish func(Progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now, m.publish = Progress{Phase: PhaseListing}, publish
}

// quiet returns when others are no longer told.
func (m *meter) quiet() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publish = nil
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
	m.now.Phase, m.now.Failing = phase, nil
	m.changed = true
	m.tell()
}

func (m *meter) begin(revision string, bytes int64, files int) {
	m.update(func(p *Progress) { p.Revision, p.BytesTotal, p.FilesTotal = revision, bytes, files })
}

func (m *meter) add(bytes int64) {
	m.update(func(p *Progress) { p.BytesDone, p.Failing = p.BytesDone+bytes, nil })
}

// failing notes why a request is tried again.
func (m *meter) failing(err error) { m.update(func(p *Progress) { p.Failing = err }) }

func (m *meter) filesDone(n int) { m.update(func(p *Progress) { p.FilesDone += n }) }

// stop reports the last state and ends the meter's goroutine.
func (m *meter) stop() {
	close(m.quit)
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell()
}
