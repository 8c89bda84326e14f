package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
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
// of each: a disk that hangs holds up the files, not the loop.
type scribe struct {
	wg     *sync.WaitGroup
	logger *slog.Logger

	mu      sync.Mutex
	pending map[string]func() error
	order   []string
	busy    bool
	failed  bool // the last write failed; said once
}

func newScribe(wg *sync.WaitGroup, logger *slog.Logger) *scribe {
	return &scribe{wg: wg, logger: logger, pending: map[string]func() error{}}
}

// put queues a write; a later one for the same file replaces it.
func (s *scribe) put(file string, write func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.pending[file]; !waits {
		s.order = append(s.order, file)
	}
	s.pending[file] = write
	if s.busy {
		return
	}
	s.busy = true
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			file, write := s.next()
			if write == nil {
				return
			}
			s.wrote(file, write())
		}
	}()
}

func (s *scribe) next() (string, func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		s.busy = false
		return "", nil
	}
	file := s.order[0]
	s.order = s.order[1:]
	write := s.pending[file]
	delete(s.pending, file)
	return file, write
}

func (s *scribe) wrote(file string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.failed {
		s.logger.Warn("write to the store", "file", file, "error", errText(err))
	}
	s.failed = err != nil
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
	data, err := os.ReadFile(path)
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
