package secrets

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"slices"
)

// Hide returns a text without the Set's secrets of eight characters or more. Unlike
// Scrub it leaves alone what only looks like a secret, or is a short word: it is for
// the results of commands, in which a source's texts stand.
func (s *Set) Hide(text string) string {
	return hide(text, slices.DeleteFunc(s.find(text), func(p span) bool { return p.to-p.from < minAnywhere }))
}

// HideJSON is Hide for the strings of a JSON document, which stays one: numbers and all
// else are as they were.
func (s *Set) HideJSON(document []byte) []byte {
	return jsonString.ReplaceAllFunc(document, func(literal []byte) []byte {
		var text string
		if json.Unmarshal(literal, &text) != nil {
			return literal
		}
		hidden := s.Hide(text)
		if hidden == text {
			return literal
		}
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		if encoder.Encode(hidden) != nil {
			return []byte(`"` + Hidden + `"`)
		}
		return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	})
}

var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// Writer returns a writer that hides, as Hide or HideJSON does, what is in one piece of
// what is written at once.
func (s *Set) Writer(w io.Writer, asJSON bool) io.Writer { return &hiding{s, w, asJSON} }

type hiding struct {
	set    *Set
	w      io.Writer
	asJSON bool
}

// Write implements io.Writer.
func (h *hiding) Write(p []byte) (int, error) {
	text := []byte(h.set.Hide(string(p)))
	if h.asJSON {
		text = h.set.HideJSON(p)
	}
	if _, err := h.w.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}
