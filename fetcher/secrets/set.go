package secrets

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// Hidden stands where a secret stood.
const Hidden = "(hidden)"

// minAnywhere is the length from which a value is hidden wherever it stands.
// Shorter ones are words that texts have for other reasons.
const minAnywhere = 8

// maxValues bounds how many values are remembered. Tokens that are renewed every
// hour make new ones for as long as an agent runs; the oldest are no good any more.
const maxValues = 512

// Set holds the secrets of a process. It is safe for concurrent use. A nil Set
// holds none, and takes none.
type Set struct {
	mu     sync.RWMutex
	values map[string]*value
	pieces map[piece]place
	uses   int64
}

// value is one secret as texts may show it.
type value struct {
	// secret is the value, lower the same in lower case.
	secret, lower string
	// words says that it is made of words.
	words bool
	// forms are in lower case, as texts are when they are compared.
	forms []string
	// used orders values by when they were last added.
	used int64
}

// New returns an empty Set.
func New() *Set { return &Set{values: map[string]*value{}, pieces: map[piece]place{}} }

// Add takes secrets. Of one of several lines, such as a private key, each line is
// a secret of its own.
func (s *Set) Add(values ...string) {
	if s == nil {
		return
	}
	for _, v := range values {
		for line := range strings.Lines(v) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "-----") { // a frame of PEM
				continue
			}
			s.add(line)
		}
	}
}

func (s *Set) add(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses++
	if v, ok := s.values[secret]; ok {
		v.used = s.uses
		return
	}
	if len(s.values) >= maxValues {
		s.forgetOldest()
	}
	v := &value{secret: secret, lower: lowerASCII(secret), words: hasWords(secret), forms: formsOf(secret), used: s.uses}
	s.values[secret] = v
	s.addPieces(v)
}

func (s *Set) forgetOldest() {
	oldest, used := "", s.uses
	for k, v := range s.values {
		if v.used < used {
			oldest, used = k, v.used
		}
	}
	delete(s.values, oldest)
	clear(s.pieces) // others may have had the same ones
	for _, v := range s.values {
		s.addPieces(v)
	}
}

// Scrub returns the text without secrets: without the Set's, and without what looks
// like one.
func (s *Set) Scrub(text string) string { return hidePatterns(s.hideValues(text)) }

// Has reports whether a text repeats one of the Set's secrets.
func (s *Set) Has(text string) bool { return len(s.find(text)) > 0 }

// span is a part of a text.
type span struct{ from, to int }

func (s *Set) hideValues(text string) string { return hide(text, s.find(text)) }

func hide(text string, spans []span) string {
	if len(spans) == 0 {
		return text
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	at := 0
	for _, p := range spans {
		if p.from > at || p.from == at && at == 0 {
			out.WriteString(text[at:p.from])
			out.WriteString(Hidden)
		}
		at = max(at, p.to)
	}
	out.WriteString(text[at:])
	return out.String()
}

// find returns where secrets stand in a text, in any order.
func (s *Set) find(text string) []span {
	if s == nil || text == "" {
		return nil
	}
	lower := lowerASCII(text)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.values) == 0 {
		return nil
	}
	spans := s.findParts(lower)
	for _, v := range views(text) {
		spans = append(spans, s.findIn(v)...)
	}
	for _, v := range s.values {
		for _, form := range v.forms {
			for at := 0; ; {
				i := strings.Index(lower[at:], form)
				if i < 0 {
					break
				}
				p := span{at + i, at + i + len(form)}
				if len(form) >= minAnywhere || standsAsSecret(lower, p) {
					spans = append(spans, p)
				}
				at = p.from + 1
			}
		}
	}
	return spans
}

// findIn returns where secrets stand in a text of which this is a view; s.mu is held.
func (s *Set) findIn(v view) []span {
	lower := lowerASCII(v.text)
	spans := s.findParts(lower)
	for _, value := range s.values {
		if len(value.lower) < minAnywhere || len(value.lower) >= minPartial || v.joined && !isRandom(value.secret) {
			continue // else its parts were found, or it is a word
		}
		for at := 0; ; {
			i := strings.Index(lower[at:], value.lower)
			if i < 0 {
				break
			}
			spans = append(spans, span{at + i, at + i + len(value.lower)})
			at += i + 1
		}
	}
	for i := range spans {
		spans[i] = v.span(spans[i])
	}
	return spans
}

// standsAsSecret reports whether a part of a text stands where a URL has user
// information, or where a header has its value.
func standsAsSecret(lower string, p span) bool {
	before, after := lower[:p.from], lower[p.to:]
	password := strings.HasSuffix(before, ":") || strings.HasSuffix(before, "//")
	if password && strings.HasPrefix(after, "@") || strings.HasSuffix(before, "//") && strings.HasPrefix(after, ":") && strings.Contains(after, "@") {
		return true
	}
	if after != "" && isTokenByte(after[0]) || before == "" {
		return false
	}
	before = strings.TrimRight(before, " \t\"'\\[")
	for _, name := range []string{":", "=", "bearer", "basic"} {
		if strings.HasSuffix(before, name) {
			return true
		}
	}
	return false
}

func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' || c == '/' || c == '+' || c == '='
}

// lowerASCII is strings.ToLower that keeps every byte in its place.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
