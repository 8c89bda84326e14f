package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// StatusWriter is where the agent writes what pods on this node read, and its
// own memory.
type StatusWriter interface {
	WriteStatus(s store.Status) error
	RemoveStatus(name string) error
	WriteHeartbeat(h store.Heartbeat) error
	// AgentFile is a path for the agent's own memory, and WriteAgentFile replaces
	// it, so that a power cut leaves the old content or the new.
	AgentFile(name string) string
	WriteAgentFile(name string, data []byte) error
}

// scribe writes small files of the store in one goroutine, the latest content
// of each: a disk that hangs holds up the files, not the loop. What could not be
// written is tried again, because it is put only when it changes.
type scribe struct {
	wg     *sync.WaitGroup
	logger *slog.Logger

	mu      sync.Mutex
	pending map[string]func() error
	order   []string
	busy    bool
	failed  bool // the last write failed; said once
	// again are the writes that failed, and age is how often all were forgotten.
	again map[string]func() error
	age   int
	tried time.Time
}

func newScribe(wg *sync.WaitGroup, logger *slog.Logger) *scribe {
	return &scribe{wg: wg, logger: logger, pending: map[string]func() error{}, again: map[string]func() error{}}
}

// put queues a write; a later one for the same file replaces it.
func (s *scribe) put(file string, write func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.pending[file]; !waits {
		s.order = append(s.order, file)
	}
	s.pending[file] = write
	delete(s.again, file)
	if s.busy {
		return
	}
	s.busy = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			file, write, age := s.next()
			if write == nil {
				return
			}
			s.wrote(file, write, age, write())
		}
	}()
}

func (s *scribe) next() (file string, write func() error, age int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		s.busy = false
		return "", nil, s.age
	}
	file = s.order[0]
	s.order = s.order[1:]
	write = s.pending[file]
	delete(s.pending, file)
	return file, write, s.age
}

func (s *scribe) wrote(file string, write func() error, age int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.failed {
		s.logger.Warn("write to the store", "file", file, "error", errText(err))
	}
	s.failed = err != nil
	if _, later := s.pending[file]; err != nil && !later && age == s.age {
		s.again[file] = write
	}
}

// retry tries again what failed, if it has not for so long.
func (s *scribe) retry(now time.Time, every time.Duration) {
	s.mu.Lock()
	again := s.again
	if len(again) == 0 || now.Sub(s.tried) < every {
		s.mu.Unlock()
		return
	}
	s.tried, s.again = now, map[string]func() error{}
	s.mu.Unlock()
	for file, write := range again {
		s.put(file, write)
	}
}

// forget lets go of everything that was not written: it is another agent's to write,
// and would be old when it is this one's again.
func (s *scribe) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.again)
	clear(s.pending)
	s.order = nil
	s.age++
}

// memoryFile is the name of what the agent remembers over a restart, under the
// store's agent folder.
const memoryFile = "memory.json"

// memory is what the agent remembers over a restart.
type memory struct {
	Version int                    `json:"version"`
	Models  map[string]modelMemory `json:"models"`
	// ColdSince is since when the Node has had the startup taint.
	ColdSince time.Time `json:"coldSince,omitzero"`
}

// modelMemory is about one model that the agent holds because of the list.
type modelMemory struct {
	LookedUp time.Time `json:"lookedUp,omitzero"`
	Unwanted time.Time `json:"unwanted,omitzero"`
	// LastUsed is rounded down to usedStep.
	LastUsed time.Time `json:"lastUsed,omitzero"`
}

// usedStep keeps the memory from being written all the time that a pod runs.
const usedStep = 10 * time.Minute

func readMemory(path string) (memory, error) {
	data, err := store.ReadAgentFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, nil
	}
	if err != nil {
		return memory{}, fmt.Errorf("read the agent's memory: %w", err)
	}
	var m memory
	if err := json.Unmarshal(data, &m); err != nil {
		return memory{}, fmt.Errorf("read the agent's memory %s: %w", path, err)
	}
	return m, nil
}
