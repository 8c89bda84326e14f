package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

const (
	// speedFile is what is remembered of the volume's speed, under the store's
	// agent folder.
	speedFile = "speed.json"
	// speedKeep is how often that is written at most.
	speedKeep = time.Minute
	// speedLeast is the smallest reading that counts: how fast a volume reads
	// cannot be told from files that are hardly more than a seek.
	speedLeast = 512 << 10
	// A lap ends when it has at least so many bytes and has lasted so long.
	lapBytes = 16 << 20
	lapTime  = 10 * time.Second
	// mostLaps are kept: of a busy volume the last 20 minutes, of one that only
	// the scrub reads some hours or days.
	mostLaps = 128
	// speedEnough is how much must have been read before that says anything.
	speedEnough = 8 << 20
)

// lap is some reading in a row.
type lap struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"` // within the calls that read
	// Began is when it was begun, At the last reading of it.
	Began time.Time `json:"began"`
	At    time.Time `json:"at"`
}

func (l lap) speed() float64 { return float64(l.Bytes) / l.Seconds }

// addReading puts a reading into the last lap, or begins one. The laps are the
// caller's own: they change in place.
func addReading(laps []lap, r store.Reading, now time.Time) []lap {
	if r.Bytes < speedLeast || r.Took <= 0 {
		return laps
	}
	if n := len(laps); n == 0 || laps[n-1].Bytes >= lapBytes && now.Sub(laps[n-1].Began) >= lapTime {
		laps = append(laps, lap{Began: now})
	}
	l := &laps[len(laps)-1]
	l.Bytes, l.Seconds, l.At = l.Bytes+r.Bytes, l.Seconds+r.Took.Seconds(), now
	if extra := len(laps) - mostLaps; extra > 0 {
		laps = slices.Delete(laps, 0, extra)
	}
	return laps
}

// measuredSpeed is how fast a volume reads when the page cache has nothing.
type measuredSpeed struct {
	// Rate in bytes per second; 0: not known.
	Rate int64
	// At is when it was last measured.
	At time.Time
}

// speedOf is the median of the laps' speeds, weighted by their bytes: half of what
// was read came faster. What a moment's stall or a cache below the file system
// did to some of them does not move it. It is a pure function.
func speedOf(laps []lap) measuredSpeed {
	var sum int64
	sorted := make([]lap, 0, len(laps))
	var last time.Time
	for _, l := range laps {
		if l.Bytes <= 0 || l.Seconds <= 0 {
			continue
		}
		sum += l.Bytes
		sorted = append(sorted, l)
		if l.At.After(last) {
			last = l.At
		}
	}
	if sum < speedEnough {
		return measuredSpeed{}
	}
	slices.SortFunc(sorted, func(a, b lap) int { return cmp.Compare(a.speed(), b.speed()) })
	var seen int64
	for _, l := range sorted {
		if seen += l.Bytes; 2*seen >= sum {
			return measuredSpeed{Rate: int64(max(1, l.speed())), At: last}
		}
	}
	return measuredSpeed{}
}

// loadSeconds is how long it takes to read so many bytes of which the page cache
// has some; ok is false where the speed is not known.
func (s measuredSpeed) loadSeconds(bytes, resident int64) (seconds int64, ok bool) {
	if s.Rate <= 0 {
		return 0, false
	}
	return int64(math.Ceil(float64(max(0, bytes-resident)) / float64(s.Rate))), true
}

const (
	// speedStep is by how much the speed must have changed to be said anew,
	// speedAge after how long the same is.
	speedStep = 0.2
	speedAge  = time.Hour
)

// restate is what to say of the speed: what was said, until it is no longer about
// right, or an hour older than what is known. Saying it costs a write of the Node.
// It is a pure function.
func restate(said, now measuredSpeed) measuredSpeed {
	switch {
	case now.Rate == 0:
		return said
	case said.Rate == 0, now.At.Sub(said.At) >= speedAge, now.At.Before(said.At):
		return now
	case math.Abs(float64(now.Rate)/float64(said.Rate)-1) > speedStep:
		return now
	}
	return said
}

// speedometer collects what is known of the volume's speed, from whoever reads.
// On a volume that agents share, each measures for itself and keeps nothing: file
// is empty.
type speedometer struct {
	file   string
	write  func(data []byte) error
	logger *slog.Logger

	mu        sync.Mutex
	restoring bool
	restored  bool
	laps      []lap
	known     measuredSpeed // by the laps, unless newer
	newer     bool
	dirty     bool
	kept      time.Time
}

// speedMemory is what outlives a restart.
type speedMemory struct {
	Version int   `json:"version"`
	Laps    []lap `json:"laps"`
}

// add takes a reading.
func (s *speedometer) add(r store.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Bytes >= speedLeast {
		s.laps, s.dirty, s.newer = addReading(s.laps, r, time.Now()), true, true
	}
}

// now is what is known now.
func (s *speedometer) now() measuredSpeed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newer {
		s.known, s.newer = speedOf(s.laps), false
	}
	return s.known
}

// restore takes over what an earlier run has measured. It reads the disk, as keep
// writes it: not for the loop.
func (s *speedometer) restore() {
	s.mu.Lock()
	began := s.restoring || s.file == ""
	s.restoring = true
	s.mu.Unlock()
	if began {
		return
	}
	laps, err := readLaps(s.file, time.Now()) // without the lock: the disk may hang
	if err != nil {
		s.logger.Warn("measure the volume's speed anew", "error", errText(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.laps, s.restored, s.kept, s.newer = append(laps, s.laps...), true, time.Now(), true
}

// readLaps reads what an earlier run has measured.
func readLaps(file string, now time.Time) ([]lap, error) {
	data, err := store.ReadAgentFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m speedMemory
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("read %s: it has version %d", file, m.Version)
	}
	laps := m.Laps[max(0, len(m.Laps)-mostLaps):]
	for i := range laps {
		l := &laps[i]
		l.Began, l.At = notAfter(l.Began, now), notAfter(l.At, now)
	}
	return laps, nil
}

// keep writes down what is new, at most every speedKeep unless it is the last time.
func (s *speedometer) keep(last bool) {
	s.mu.Lock()
	now := time.Now()
	if s.file == "" || !s.dirty || !s.restored || !last && now.Sub(s.kept) < speedKeep {
		s.mu.Unlock()
		return
	}
	m := speedMemory{Version: 1, Laps: slices.Clone(s.laps)}
	s.dirty, s.kept = false, now
	s.mu.Unlock()
	data, err := json.Marshal(m)
	if err == nil {
		err = s.write(data)
	}
	if err != nil {
		s.logger.Warn("remember the volume's speed", "error", errText(err))
	}
}
