package printable

import (
	"io"
	"slices"
	"sync"
	"unicode/utf8"
)

// Writer passes text on with everything escaped that [Line] escapes, less line breaks
// and tabs. JSON stays the same JSON. Several goroutines may write; each Write is one
// of w. The zero value is not usable.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
	// begun are the first bytes of a character whose rest is in the next Write.
	begun []byte
	err   error
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.begun) == 0 && plain(p) {
		return w.pass(p, len(p))
	}
	text := slices.Concat(w.begun, p)
	whole := len(text)
	for i := max(0, len(text)-utf8.UTFMax+1); i < len(text); i++ {
		if utf8.RuneStart(text[i]) && !utf8.FullRune(text[i:]) {
			whole = i
			break
		}
	}
	w.begun = slices.Clone(text[whole:])
	return w.pass(lines(text[:whole]), len(p))
}

// Exact writes bytes as they are, for what a program reads: a path, a manifest.
func (w *Writer) Exact() io.Writer { return exact{w} }

type exact struct{ w *Writer }

// Write implements io.Writer.
func (e exact) Write(p []byte) (int, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return e.w.pass(p, len(p))
}

// Close writes what is left of a character that never became whole, and returns the
// first error of any Write. It does not close what is written to.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.begun) > 0 {
		_, _ = w.pass([]byte(escaped(string(w.begun))), 0) // w.err has it
		w.begun = nil
	}
	return w.err
}

func (w *Writer) pass(text []byte, n int) (int, error) {
	if len(text) == 0 {
		return n, nil
	}
	_, err := w.w.Write(text)
	if err != nil {
		if w.err == nil {
			w.err = err
		}
		return 0, err
	}
	return n, nil
}

// plain says whether nothing in p is to be escaped, in most cases.
func plain(p []byte) bool {
	for _, b := range p {
		if (b < ' ' || b >= 0x7f) && b != '\n' && b != '\t' {
			return false
		}
	}
	return true
}

// lines escapes a text, less its line breaks and tabs.
func lines(text []byte) []byte {
	out := make([]byte, 0, len(text)+len(text)/8)
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if safe(r, n) || r == '\n' || r == '\t' {
			out = append(out, text[i:i+n]...)
		} else {
			out = append(out, escape(r, n, text[i])...)
		}
		i += n
	}
	return out
}
