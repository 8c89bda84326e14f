package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Scrubber reads published content again; *store.Store is one.
type Scrubber interface {
	// Blobs lists the content of all published revisions, by digest.
	Blobs(ctx context.Context) ([]store.Blob, error)
	// Scrub reads the next piece of a blob. store.ErrUnverified: there is nothing
	// to be held against; any other store.ErrCorrupt: it is wrong, and Check says
	// so from here on.
	Scrub(ctx context.Context, p store.ScrubPoint) (store.ScrubPoint, error)
	// AgentFile is where the agent keeps its memory.
	AgentFile(name string) string
	WriteAgentFile(name string, data []byte) error
}

const (
	// recheckShare is how often in a cycle's time a follower of a shared volume reads
	// again what it has found wrong as its writer.
	recheckShare = 24
	// scrubFile is the scrub's memory, under the store's agent folder.
	scrubFile = "scrub.json"
	// scrubKeep is how often that is written at most, and so how much reading a
	// kill costs.
	scrubKeep = time.Minute
	// scrubList is how long a list of blobs is used; what is published meanwhile
	// was just verified.
	scrubList = 10 * time.Minute
	// scrubPause is how long a paused or failed scrub waits at most, and how soon
	// changed settings are seen.
	scrubPause = 30 * time.Second
	// scrubTries is how often one blob may fail in a row for no fault of its own.
	scrubTries = 5
	// scrubBeside is by what the rate is divided while something is pulled.
	scrubBeside = 4
	// scrubLeast is what reading a blob costs at least, in bytes: many small files
	// must not be read all at once.
	scrubLeast = 4096
)

// scrubber reads everything that is published again and again, in the order of
// digests, at such a rate that a cycle takes as long as the settings say, or as
// the settings' rate allows. It runs in a goroutine of its own: a disk that hangs
// stops it and nothing else.
type scrubber struct {
	store   Scrubber
	usable  func() bool               // the store answers
	busy    func() bool               // something is pulled
	idle    func(ctx context.Context) // what is done while nothing may be scrubbed; nil: nothing
	found   func(ctx context.Context)
	took    func(store.Reading) // how long the disk took for a piece
	logger  *slog.Logger
	setting atomic.Pointer[ScrubConfig]

	// Only the goroutine touches these, and memory.
	blobs  []store.Blob
	ahead  []int64 // what is left to read from the blob of this index on
	at     int     // index of the blob that is being read, or is next
	listed time.Time
	last   time.Time // when the last piece had been read
	failed int       // in a row
	told   string    // the last error, to tell it once
	kept   time.Time
	dirty  bool

	memory scrubMemory

	mu   sync.Mutex
	view scrubView
}

// scrubMemory is what outlives a restart.
type scrubMemory struct {
	Version int `json:"version"`
	// Started is when the cycle under way began.
	Started time.Time `json:"started"`
	// LastSeconds is how long the last complete cycle took; 0 if none did.
	LastSeconds float64 `json:"lastSeconds,omitempty"`
	// Point is the blob that is being read, or was read last.
	Point store.ScrubPoint `json:"point"`
	// Began is when the first blob of the point's shelf was begun.
	Began time.Time `json:"began"`
	// Skipped says that a blob of that shelf could not be read.
	Skipped bool `json:"skipped,omitempty"`
	// Read is since when all blobs of a shelf have been read once more. A shelf
	// is the blobs whose digests begin with the same two digits.
	Read map[string]time.Time `json:"read,omitempty"`
}

func shelf(sha256Hex string) string { return sha256Hex[:min(2, len(sha256Hex))] }

// scrubView is what others may know of the scrub.
type scrubView struct {
	// Expected is how long a cycle takes with the settings in force.
	Expected time.Duration
	// Bytes read and blobs found wrong since the process began.
	Bytes, Bad int64
	// Blobs are those that were published when the scrub last listed them.
	Blobs []store.Blob
	// Started is when the cycle under way began; zero if there is none.
	Started time.Time
	// Last is how long the last complete cycle took; zero if none did.
	Last time.Duration
	// Read is since when all blobs of a shelf have been read.
	Read map[string]time.Time
}

func newScrubber(s Scrubber, usable, busy func() bool, found func(context.Context), took func(store.Reading), logger *slog.Logger) *scrubber {
	return &scrubber{store: s, usable: usable, busy: busy, found: found, took: took, logger: logger}
}

func (s *scrubber) configure(cfg ScrubConfig) { s.setting.Store(&cfg) }

// run scrubs until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	restored := false
	s.last = time.Now()
	for ctx.Err() == nil {
		if !s.usable() {
			if s.idle != nil {
				s.idle(ctx)
			}
			s.wait(ctx, s.pause())
			continue
		}
		if !restored {
			s.restore()
			restored = true
		}
		s.wait(ctx, s.step(ctx))
	}
	if s.dirty && s.usable() {
		s.keep()
	}
}

// pause is shorter where a whole cycle is short.
func (s *scrubber) pause() time.Duration { return min(scrubPause, s.setting.Load().Cycle/4) }

func (s *scrubber) wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// step does what is due now, and returns how long to wait before the next.
func (s *scrubber) step(ctx context.Context) time.Duration {
	now := time.Now()
	if s.dirty && now.Sub(s.kept) >= scrubKeep {
		s.keep()
	}
	if s.blobs == nil || now.Sub(s.listed) >= min(scrubList, s.setting.Load().Cycle/4) {
		if err := s.list(ctx, now); err != nil {
			s.tell("list what is to be scrubbed", err)
			return s.pause()
		}
	}
	if len(s.blobs) == 0 {
		dirty := s.dirty
		s.change(func(m *scrubMemory) { m.Started, m.Point = now, store.ScrubPoint{} })
		s.dirty = dirty // nothing was read
		return s.pause()
	}
	if s.at >= len(s.blobs) {
		s.endCycle(now)
		s.blobs = nil
		return 0
	}
	if due := s.due(now); due.After(now) {
		return min(due.Sub(now), s.pause())
	}
	return s.read(ctx, now)
}

// due is when the next piece may be read: spread over what is left of the cycle,
// but never faster than the settings allow.
func (s *scrubber) due(now time.Time) time.Time {
	cfg := s.setting.Load()
	rate := cfg.Rate
	if s.busy() {
		rate = max(rate/scrubBeside, 1)
	}
	size := s.weight(min(s.blobs[s.at].Size-s.offset(), store.ScrubPiece))
	wait := time.Duration(float64(size) / float64(rate) * float64(time.Second))
	end := s.memory.Started.Add(cfg.Cycle)
	if latest := now.Add(cfg.Cycle); end.After(latest) {
		end = latest // the clock was set back
	}
	if left := s.ahead[s.at] - s.offset(); left > 0 {
		wait = max(wait, time.Duration(float64(end.Sub(s.last))*min(1, float64(size)/float64(left))))
	}
	return s.last.Add(wait)
}

func (s *scrubber) weight(bytes int64) int64 { return max(bytes, scrubLeast) }

// offset is how much of the blob at s.at has been read.
func (s *scrubber) offset() int64 {
	if p := s.memory.Point; p.SHA256 == s.blobs[s.at].SHA256 && !p.Done {
		return p.Offset
	}
	return 0
}

// read reads one piece of the blob at s.at.
func (s *scrubber) read(ctx context.Context, now time.Time) time.Duration {
	p := s.memory.Point
	if sum := s.blobs[s.at].SHA256; p.SHA256 != sum || p.Done {
		if shelf(p.SHA256) != shelf(sum) {
			s.change(func(m *scrubMemory) { m.Began, m.Skipped = now, false })
		}
		p = store.ScrubPoint{SHA256: sum}
	}
	next, err := s.store.Scrub(ctx, p)
	s.last = time.Now()
	switch {
	case err == nil:
		n := next.Offset - p.Offset
		if n < 0 {
			n = next.Offset // another file took its place, and was begun
		}
		s.failed, s.told = 0, ""
		s.took(next.Cold)
		s.change(func(m *scrubMemory) { m.Point = next })
		s.show(func(v *scrubView) { v.Bytes += n })
		if next.Done {
			s.advance(false)
		}
	case ctx.Err() != nil:
	case errors.Is(err, store.ErrUnverified):
		s.advance(false) // Check has told it, and a pull will hash it
	case errors.Is(err, store.ErrCorrupt):
		s.logger.Error("find content wrong", "sha256", p.SHA256, "models", s.blobs[s.at].Models, "error", errText(err))
		s.show(func(v *scrubView) { v.Bad++ })
		s.advance(false)
		s.found(ctx)
	default:
		s.tell("scrub", err)
		if s.failed++; s.failed >= scrubTries {
			s.failed = 0
			s.advance(true)
		}
		return s.pause()
	}
	return 0
}

// advance goes on to the next blob. A shelf that was left with all of its blobs
// read has been since its first one was begun.
func (s *scrubber) advance(skipped bool) {
	sum := s.blobs[s.at].SHA256
	s.at++
	s.change(func(m *scrubMemory) {
		m.Point = store.ScrubPoint{SHA256: sum, Done: true}
		m.Skipped = m.Skipped || skipped
		if left := s.at >= len(s.blobs) || shelf(s.blobs[s.at].SHA256) != shelf(sum); left && !m.Skipped {
			m.Read = withShelf(m.Read, shelf(sum), m.Began)
		}
	})
}

// withShelf copies: others read the old map.
func withShelf(read map[string]time.Time, key string, at time.Time) map[string]time.Time {
	out := make(map[string]time.Time, len(read)+1)
	for k, v := range read {
		out[k] = v
	}
	out[key] = at
	return out
}

func (s *scrubber) endCycle(now time.Time) {
	took := now.Sub(s.memory.Started)
	s.change(func(m *scrubMemory) {
		m.LastSeconds, m.Started, m.Point = took.Seconds(), now, store.ScrubPoint{}
	})
	s.keep()
	s.logger.Debug("scrubbed everything", "seconds", took.Seconds(), "blobs", len(s.blobs))
}

// list looks what is to be read, and finds the place again.
func (s *scrubber) list(ctx context.Context, now time.Time) error {
	blobs, err := s.store.Blobs(ctx)
	if err != nil {
		return err
	}
	s.blobs, s.listed = blobs, now
	s.ahead = make([]int64, len(blobs)+1)
	for i := len(blobs) - 1; i >= 0; i-- {
		s.ahead[i] = s.ahead[i+1] + s.weight(blobs[i].Size)
	}
	p := s.memory.Point
	s.at = sort.Search(len(blobs), func(i int) bool {
		return blobs[i].SHA256 > p.SHA256 || blobs[i].SHA256 == p.SHA256 && !p.Done
	})
	cfg := s.setting.Load()
	fastest := time.Duration(float64(s.ahead[0]) / float64(cfg.Rate) * float64(time.Second))
	s.show(func(v *scrubView) { v.Blobs, v.Expected = blobs, max(cfg.Cycle, fastest) })
	return nil
}

// tell logs what hinders, once.
func (s *scrubber) tell(doing string, err error) {
	if text := doing + errText(err); text != s.told {
		s.told = text
		s.logger.Warn("wait with the scrub", "doing", doing, "error", errText(err))
	}
}

func (s *scrubber) change(do func(*scrubMemory)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(&s.memory)
	s.dirty = true
	s.view.Started, s.view.Read = s.memory.Started, s.memory.Read
	s.view.Last = time.Duration(s.memory.LastSeconds * float64(time.Second))
}

func (s *scrubber) show(do func(*scrubView)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(&s.view)
}

// seen is what the scrub knows now.
func (s *scrubber) seen() scrubView {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

// keep writes the memory down. Losing it costs a cycle.
func (s *scrubber) keep() {
	s.kept = time.Now()
	m := s.memory
	m.Version = 1
	data, err := json.Marshal(m)
	if err == nil {
		err = s.store.WriteAgentFile(scrubFile, data)
	}
	if err != nil {
		s.tell("remember how far it is", err)
		return
	}
	s.dirty = false
}

// restore takes up what an earlier run has read.
func (s *scrubber) restore() {
	now := time.Now()
	var m scrubMemory
	data, err := store.ReadAgentFile(s.store.AgentFile(scrubFile))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && m.Version != 1 {
		err = fmt.Errorf("it has version %d", m.Version)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.logger.Warn("scrub from the begin", "error", errText(err))
	}
	if err != nil {
		m = scrubMemory{}
	}
	if m.Started.IsZero() || m.Started.After(now) {
		m.Started = now
	}
	s.change(func(mine *scrubMemory) { *mine = m })
	s.dirty = false
}

// transferring says whether any pull is past looking up its revision.
func (p *pulls) transferring() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, run := range p.running {
		if !run.state.Lookup && run.state.Phase != fetcher.PhaseWaiting {
			return true
		}
	}
	return false
}
