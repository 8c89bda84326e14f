package daemon

import (
	"bytes"
	"sync"
)

// Log keeps what a process writes, and is read while it is written. Its zero value
// is empty.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is everything.
func (l *Log) String() string { return l.From(0) }

// From is what was written from an offset on.
func (l *Log) From(offset int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text.Bytes()[min(offset, l.text.Len()):])
}

// Len is how much there is in bytes.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Len()
}
