package secrets

import (
	"strings"
	"unicode"
)

// Bounds on what is taken for a part of a secret.
const (
	// minPartial is the length of values of which parts are hidden, too.
	minPartial = 16
	// window is the length of the pieces that are looked for, and stride how far apart
	// they begin: a run of window+stride-1 characters has a whole one in it.
	window, stride = 8, 4
	// minWords is how long a part must be that may be two words; one of 16 letters is none
	// that a text has for other reasons.
	minWords = 12
)

// piece is a window of a value's characters, in lower case.
type piece [window]byte

// place is where a value has a piece.
type place struct {
	of *value
	at int
}

// addPieces makes a value's parts known; s.mu is held.
func (s *Set) addPieces(v *value) {
	if len(v.secret) < minPartial {
		return
	}
	for at := 0; at+window <= len(v.secret); at += stride {
		p := piece([]byte(v.lower[at : at+window]))
		if _, ok := s.pieces[p]; !ok {
			s.pieces[p] = place{v, at}
		}
	}
}

// findParts returns where a text has runs of a value's characters. It takes time linear
// in the text, however many values there are.
func (s *Set) findParts(lower string) []span {
	if len(s.pieces) == 0 {
		return nil
	}
	var spans []span
	for at := 0; at+window <= len(lower); at++ {
		p, ok := s.pieces[piece([]byte(lower[at:at+window]))]
		if !ok {
			continue
		}
		from, begin := at, p.at
		for at-from < stride-1 && from > 0 && begin > 0 && lower[from-1] == p.of.lower[begin-1] {
			from, begin = from-1, begin-1
		}
		to, end := at+window, p.at+window
		for to < len(lower) && end < len(p.of.lower) && lower[to] == p.of.lower[end] {
			to, end = to+1, end+1
		}
		if part := p.of.secret[begin:end]; len(part) >= minPartial || isRandom(part) || len(part) >= minWords && (!p.of.words || !isWord(part)) {
			spans = append(spans, span{from, to})
		}
		at = max(at, to-window) // what follows may begin within the end of this
	}
	return spans
}

// hasWords reports whether a value is made of words, or of what cannot be told from
// them: letters of one case, and numbers beside them.
func hasWords(secret string) bool {
	for word := range strings.FieldsFuncSeq(secret, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if isRandom(word) {
			return false
		}
	}
	return true
}

// isWord reports whether a part has letters only.
func isWord(part string) bool {
	return strings.IndexFunc(part, func(r rune) bool { return !unicode.IsLetter(r) }) < 0
}

// isRandom reports whether a part looks like no word: it mixes letters with digits, or
// has a capital behind a small letter.
func isRandom(part string) bool {
	letter, digit, capital, small := false, false, false, false
	for _, c := range []byte(part) {
		switch {
		case c >= '0' && c <= '9':
			digit = true
		case c >= 'a' && c <= 'z':
			letter, small = true, true
		case c >= 'A' && c <= 'Z':
			letter, capital = true, capital || small
		}
	}
	return letter && digit || capital
}
