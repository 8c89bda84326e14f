package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Codes of a status that say why a model was refused for good, so that a
// waiting pod ends with the exit code of `stoker pull`.
const (
	CodeRefused = "refused"
	CodeNoRoom  = "noRoom"
)

// Status is what the agent says about one model to those who wait for it on
// this node.
type Status struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Bytes done of Total; Rate in bytes per second.
	Bytes int64 `json:"bytes"`
	Total int64 `json:"total"`
	Rate  int64 `json:"rate,omitempty"`
	// Reason and Hint say why the model is not warm and what to do.
	Reason string `json:"reason,omitempty"`
	Hint   string `json:"hint,omitempty"`
	// Code is set when waiting is in vain: one of the Code constants.
	Code string    `json:"code,omitempty"`
	Time time.Time `json:"time"`
}

// Heartbeat says that an agent looks after this store.
type Heartbeat struct {
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
}

func (s *Store) statusPath(name string) string {
	return filepath.Join(s.dir, "status", name+".json")
}

// heartbeatName cannot be taken by a model: a model's status file of that name
// would be agent.json as well, so a model must not be called agent.
const heartbeatName = "agent"

// WriteStatus replaces the model's status.
func (s *Store) WriteStatus(st Status) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	if st.Name == heartbeatName {
		return nil // its place is the heartbeat's; waiting works without
	}
	if err := checkFolder(st.Name); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return s.writeJSON(s.statusPath(st.Name), st, false)
}

// ReadStatus returns the model's status; ErrNotFound if nobody wrote one.
func (s *Store) ReadStatus(name string) (Status, error) {
	var st Status
	if err := checkFolder(name); err != nil {
		return st, fmt.Errorf("read status: %w", err)
	}
	err := fs.ErrNotExist
	if name != heartbeatName {
		err = s.readJSON(s.statusPath(name), maxNote, &st)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, fmt.Errorf("status of %s: %w", name, ErrNotFound)
	}
	return st, err
}

// RemoveStatus forgets the model's status.
func (s *Store) RemoveStatus(name string) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	if name == heartbeatName {
		return nil
	}
	if err := checkFolder(name); err != nil {
		return fmt.Errorf("remove status: %w", err)
	}
	return s.removeIfExists(s.statusPath(name))
}

// WriteHeartbeat says that the agent is alive.
func (s *Store) WriteHeartbeat(h Heartbeat) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	return s.writeJSON(s.statusPath(heartbeatName), h, false)
}

// ReadHeartbeat returns the agent's last sign of life; ErrNotFound if there
// never was one.
func (s *Store) ReadHeartbeat() (Heartbeat, error) {
	var h Heartbeat
	err := s.readJSON(s.statusPath(heartbeatName), maxNote, &h)
	if errors.Is(err, fs.ErrNotExist) {
		return Heartbeat{}, fmt.Errorf("heartbeat: %w", ErrNotFound)
	}
	return h, err
}
