package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
)

// errNoWord is an annotation that is JSON and yet no agent's.
var errNoWord = errors.New("it is not what an agent writes")

// readWord reads the annotation. One of a newer version than this program's is
// read as far as possible; newer says so.
func readWord(text string) (s agent.NodeStatus, newer bool, err error) {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		return s, false, err
	}
	switch {
	case head.Version < 1:
		return s, false, fmt.Errorf("%w: it has no version", errNoWord)
	case head.Version > agent.StatusVersion:
		s = readLoosely(text)
	default:
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return agent.NodeStatus{}, false, err
		}
	}
	s.Version = head.Version
	seen := map[string]bool{}
	for _, m := range s.Models {
		if err := fetcher.CheckName(m.Name); err != nil {
			return agent.NodeStatus{}, false, fmt.Errorf("%w: model %w", errNoWord, err)
		}
		if seen[m.Name] {
			return agent.NodeStatus{}, false, fmt.Errorf("%w: it names model %s twice", errNoWord, m.Name)
		}
		seen[m.Name] = true
	}
	return s, s.Version > agent.StatusVersion, nil
}

// readLoosely takes every field that still means something to this program. A
// field whose shape has changed is left out; a model keeps at least its name
// and state if those have not.
func readLoosely(text string) agent.NodeStatus {
	var s agent.NodeStatus
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return s // there is nothing that this program understands
	}
	take(fields["agent"], &s.Agent)
	take(fields["release"], &s.Release)
	take(fields["time"], &s.Time)
	take(fields["omitted"], &s.Omitted)
	take(fields["gpus"], &s.GPUs)
	take(fields["store"], &s.Store)
	take(fields["list"], &s.List)
	var models []json.RawMessage
	take(fields["models"], &models)
	for _, raw := range models {
		var m agent.ModelStatus
		if !take(raw, &m) {
			var least struct {
				Name  string      `json:"name"`
				State agent.State `json:"state"`
				Tier  string      `json:"tier"`
			}
			if !take(raw, &least) || least.Name == "" {
				s.Omitted++
				continue
			}
			m = agent.ModelStatus{Name: least.Name, State: least.State, Tier: least.Tier}
		}
		s.Models = append(s.Models, m)
	}
	return s
}

// take decodes what is there; a value that does not fit leaves the zero value.
func take[T any](raw json.RawMessage, to *T) bool {
	if len(bytes.TrimSpace(raw)) == 0 {
		return false
	}
	var v T
	if json.Unmarshal(raw, &v) != nil {
		return false
	}
	*to = v
	return true
}
