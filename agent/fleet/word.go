package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

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
	return clean(s), s.Version > agent.StatusVersion, nil
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

// maxText bounds each text that a Node says, in characters.
const maxText = 2000

// plain is a text that cannot steer a terminal: what is not printed becomes a
// space, and it has one line and an end.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxText {
		s = string(r[:maxText]) + "..."
	}
	return strings.TrimSpace(s)
}

// clean makes every text plain.
func clean(s agent.NodeStatus) agent.NodeStatus {
	s.Agent = plain(s.Agent)
	for i := range s.Models {
		m := &s.Models[i]
		m.State = agent.State(plain(string(m.State)))
		m.Source, m.Tier, m.Revision = plain(m.Source), plain(m.Tier), plain(m.Revision)
		m.Reason, m.Hint, m.Code = plain(m.Reason), plain(m.Hint), plain(m.Code)
		m.RAM, m.NotInRAM, m.NeedUnknown = plain(m.RAM), plain(m.NotInRAM), plain(m.NeedUnknown)
	}
	s.GPUs.Reason, s.GPUs.Name = plain(s.GPUs.Reason), plain(s.GPUs.Name)
	for i := range s.GPUs.Leaks {
		l := &s.GPUs.Leaks[i]
		l.MIG, l.UUID = plain(l.MIG), plain(l.UUID)
	}
	s.Store.Reason, s.List.Rejected = plain(s.Store.Reason), plain(s.List.Rejected)
	return s
}
