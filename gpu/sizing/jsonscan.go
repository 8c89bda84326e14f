package sizing

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxName bounds a name in a header or an index, in bytes.
	maxName = 4096
	// maxDepth bounds how deep JSON may nest.
	maxDepth = 64
)

// jsonScanner reads JSON value by value, in memory that does not depend on how much
// there is: encoding/json decodes a value as a whole, and takes twelve times its
// length for a list of numbers. The end of input, where more is due, is
// io.ErrUnexpectedEOF.
type jsonScanner struct {
	r    *bufio.Reader
	text []byte // of the last string or word
	// python takes NaN and Infinity, as Python writes them, where values are skipped.
	python bool
}

func newJSONScanner(r io.Reader) *jsonScanner {
	return &jsonScanner{r: bufio.NewReaderSize(r, 64<<10), text: make([]byte, 0, 256)}
}

// next returns the next byte that is no space.
func (s *jsonScanner) next() (byte, error) {
	for {
		b, err := s.r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		switch b {
		case ' ', '\n', '\t', '\r':
		default:
			return b, nil
		}
	}
}

// back gives back the byte that was read last.
func (s *jsonScanner) back() error { return s.r.UnreadByte() }

// end makes sure that nothing but space is left.
func (s *jsonScanner) end() error {
	b, err := s.next()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%q goes on behind the JSON value", b)
}

// object calls member for each key of an object, with the scanner in front of the
// value. The key is valid until member reads on.
func (s *jsonScanner) object(member func(key []byte) error) error {
	b, err := s.next()
	if err != nil {
		return err
	}
	if b != '{' {
		return fmt.Errorf("%q stands where an object begins", b)
	}
	for first := true; ; first = false {
		b, err := s.next()
		switch {
		case err != nil:
			return err
		case first && b == '}':
			return nil
		case b != '"':
			return fmt.Errorf("%q stands where a name begins", b)
		}
		if err := s.stringRest(true); err != nil {
			return err
		}
		if b, err = s.next(); err != nil {
			return err
		}
		if b != ':' {
			return fmt.Errorf("%q stands where a colon belongs", b)
		}
		if err := member(s.text); err != nil {
			return err
		}
		if more, err := s.more('}'); err != nil || !more {
			return err
		}
	}
}

// array calls element for each element, with the scanner in front of it.
func (s *jsonScanner) array(element func() error) error {
	b, err := s.next()
	if err != nil {
		return err
	}
	if b != '[' {
		return fmt.Errorf("%q stands where a list begins", b)
	}
	if b, err = s.next(); err != nil || b == ']' {
		return err
	}
	if err := s.back(); err != nil {
		return err
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if more, err := s.more(']'); err != nil || !more {
			return err
		}
	}
}

// more reads the comma or the end behind an element.
func (s *jsonScanner) more(end byte) (bool, error) {
	b, err := s.next()
	switch {
	case err != nil:
		return false, err
	case b == end:
		return false, nil
	case b == ',':
		return true, nil
	}
	return false, fmt.Errorf("%q stands where a comma or %q belongs", b, end)
}

// string reads a string of at most maxName bytes, which is valid until the scanner
// reads on.
func (s *jsonScanner) string() ([]byte, error) {
	b, err := s.next()
	if err != nil {
		return nil, err
	}
	if b != '"' {
		return nil, fmt.Errorf("%q stands where a string begins", b)
	}
	err = s.stringRest(true)
	return s.text, err
}

// skipString reads a string of any length.
func (s *jsonScanner) skipString() error {
	b, err := s.next()
	if err != nil {
		return err
	}
	if b != '"' {
		return fmt.Errorf("%q stands where a string begins", b)
	}
	return s.stringRest(false)
}

// stringRest reads a string behind its first quotation mark, into s.text where it
// is to be kept.
func (s *jsonScanner) stringRest(keep bool) error {
	s.text = s.text[:0]
	for {
		b, err := s.r.ReadByte()
		switch {
		case err != nil:
			return unexpected(err)
		case b == '"':
			return nil
		case b < ' ':
			return fmt.Errorf("%q stands in a string", b)
		case b == '\\':
			if err := s.escape(keep); err != nil {
				return err
			}
		case keep:
			s.text = append(s.text, b)
		}
		if len(s.text) > maxName {
			return fmt.Errorf("a name is longer than %d bytes", maxName)
		}
	}
}

func (s *jsonScanner) escape(keep bool) error {
	b, err := s.r.ReadByte()
	if err != nil {
		return unexpected(err)
	}
	switch b {
	case '"', '\\', '/':
	case 'b':
		b = '\b'
	case 'f':
		b = '\f'
	case 'n':
		b = '\n'
	case 'r':
		b = '\r'
	case 't':
		b = '\t'
	case 'u':
		r, err := s.hex4()
		if err != nil {
			return err
		}
		if utf16.IsSurrogate(r) {
			r = s.lowSurrogate(r)
		}
		if keep {
			s.text = utf8.AppendRune(s.text, r)
		}
		return nil
	default:
		return fmt.Errorf("%q is no escape of JSON", b)
	}
	if keep {
		s.text = append(s.text, b)
	}
	return nil
}

// lowSurrogate completes a pair; where it is none, the character is not known.
func (s *jsonScanner) lowSurrogate(high rune) rune {
	ahead, err := s.r.Peek(6)
	if err != nil || ahead[0] != '\\' || ahead[1] != 'u' {
		return utf8.RuneError
	}
	low, ok := parseHex4(ahead[2:])
	r := utf16.DecodeRune(high, low)
	if !ok || r == utf8.RuneError {
		return utf8.RuneError
	}
	_, _ = s.r.Discard(6) // it was peeked at
	return r
}

func (s *jsonScanner) hex4() (rune, error) {
	var digits [4]byte
	if _, err := io.ReadFull(s.r, digits[:]); err != nil {
		return 0, unexpected(err)
	}
	r, ok := parseHex4(digits[:])
	if !ok {
		return 0, fmt.Errorf("%q is no escape of JSON", `\u`+string(digits[:]))
	}
	return r, nil
}

func parseHex4(digits []byte) (r rune, ok bool) {
	for _, d := range digits {
		switch {
		case d >= '0' && d <= '9':
			r = r<<4 | rune(d-'0')
		case d >= 'a' && d <= 'f':
			r = r<<4 | rune(d-'a'+10)
		case d >= 'A' && d <= 'F':
			r = r<<4 | rune(d-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// uint reads a whole number that is not negative.
func (s *jsonScanner) uint() (uint64, error) {
	b, err := s.next()
	if err != nil {
		return 0, err
	}
	if b < '0' || b > '9' {
		return 0, fmt.Errorf("%q stands where a whole number begins, not negative", b)
	}
	n, zero := uint64(b-'0'), b == '0'
	for {
		b, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		switch {
		case b >= '0' && b <= '9' && !zero:
			d := uint64(b - '0')
			if n > (math.MaxUint64-d)/10 {
				return 0, errors.New("a number is larger than 64 bits")
			}
			n = n*10 + d
		case b >= '0' && b <= '9' || b == '.' || b == 'e' || b == 'E':
			return 0, errors.New("a number is not written as a whole one")
		default:
			return n, s.back()
		}
	}
}

// skip reads a value whatever it is.
func (s *jsonScanner) skip() error { return s.skipAt(0) }

func (s *jsonScanner) skipAt(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it nests deeper than %d", maxDepth)
	}
	b, err := s.next()
	if err != nil {
		return err
	}
	switch b {
	case '"':
		return s.stringRest(false)
	case '{':
		if err := s.back(); err != nil {
			return err
		}
		return s.object(func([]byte) error { return s.skipAt(depth + 1) })
	case '[':
		if err := s.back(); err != nil {
			return err
		}
		return s.array(func() error { return s.skipAt(depth + 1) })
	}
	return s.skipWord(b)
}

// skipWord reads a number, true, false or null that begins with b.
func (s *jsonScanner) skipWord(b byte) error {
	s.text = append(s.text[:0], b)
	for {
		b, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !isWord(b) {
			if err := s.back(); err != nil {
				return err
			}
			break
		}
		if s.text = append(s.text, b); len(s.text) > 400 { // a float64 with all its digits has fewer
			return errors.New("a number is longer than any")
		}
	}
	digit := len(s.text) == 1 && b >= '0' && b <= '9' // most are, where there are millions
	if !digit && !json.Valid(s.text) && (!s.python || !isPythonNumber(s.text)) {
		return fmt.Errorf("%q is no value of JSON", s.text[:min(len(s.text), 40)])
	}
	return nil
}

// isPythonNumber says whether the word is one of those that are no JSON.
func isPythonNumber(word []byte) bool {
	rest, ok := cutPythonNumber(word)
	return ok && len(rest) == 0
}

func isWord(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '+' || b == '-' || b == '.'
}
