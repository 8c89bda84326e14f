package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// serialized is a writer that several goroutines may write to.
type serialized struct {
	mu sync.Mutex
	w  io.Writer
}

// serialize returns w, or, as a file is safe already and progress bars look for a
// terminal, a file itself.
func serialize(w io.Writer) io.Writer {
	if _, ok := w.(*os.File); ok {
		return w
	}
	return &serialized{w: w}
}

// Write implements io.Writer.
func (s *serialized) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// clearLine is what a line on standard error begins with that may come in the
// middle of a progress bar.
func (c *cli) clearLine() string {
	if f, ok := c.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return "\r\x1b[K"
	}
	return ""
}
