package httpsource

import (
	"fmt"
	"net/url"
	"sync"
	"time"
)

// Growth of the bound on headers: a cache that fetches a file before it answers is
// asked again with twice the time, until it has it.
const (
	headerGrowth = 10        // times Bounds.Header at most
	headerMost   = time.Hour // and no longer than this, unless Header is
	maxLate      = 1000      // addresses that are remembered
)

// lateFor is how long an address has more time than usual. That another request for it
// is answered in time meanwhile says nothing: a busy server answers some.
const lateFor = time.Hour

// lateness remembers which addresses answered too late, and how long they may take now.
type lateness struct {
	mu   sync.Mutex
	late map[string]allowance
}

type allowance struct {
	bound time.Duration
	since time.Time
}

// address is what is asked for, less what may be signed in it.
func address(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }

// bound returns how long headers may take.
func (l *lateness) bound(address string, usual time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.late[address]
	if time.Since(a.since) > lateFor {
		return usual
	}
	return max(usual, a.bound)
}

// grow notes that headers took more than waited, and returns how long they may take
// next time. Many that waited together count once.
func (l *lateness) grow(address string, waited, usual time.Duration) time.Duration {
	next := min(2*waited, max(usual, min(headerGrowth*usual, headerMost)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.late == nil || len(l.late) >= maxLate {
		l.late = map[string]allowance{}
	}
	if a := l.late[address]; time.Since(a.since) <= lateFor {
		next = max(next, a.bound)
	}
	l.late[address] = allowance{next, time.Now()}
	return next
}

// noHeaders is the failure of a server that took longer than waited, and has next.
func noHeaders(host string, waited, next time.Duration) *Exceeded {
	e := tooLate(host, "sent no headers within %s", waited)
	e.Hint = "check the network and the server"
	if next > waited {
		e.Hint += fmt.Sprintf("; a mirror that fetches a file before it answers takes longer: the next try waits %s", next)
	}
	e.Hint += "; access.headerTimeout of a list entry, or --header-timeout, raises this"
	return e
}
