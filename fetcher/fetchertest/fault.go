package fetchertest

import (
	"net/http"
	"strconv"
	"time"
)

// Fault breaks the answers to some requests.
type Fault struct {
	// Match selects the requests.
	Match
	// Skip lets that many matching requests through first.
	Skip int
	// Times is how many requests are broken after that; 0 means all.
	Times int
	// Effect is what happens to them.
	Effect Effect
}

// Effect is one way of breaking an answer; see the functions that return one.
type Effect struct {
	status      int
	header      http.Header
	body        string
	cutAfter    int64 // -1: not
	stallAfter  int64 // -1: not
	wrongByte   int64 // -1: not
	ignoreRange bool
	expired     bool
}

func effect() Effect { return Effect{cutAfter: -1, stallAfter: -1, wrongByte: -1} }

// Answer replaces the answer by this one. header may be nil.
func Answer(status int, header http.Header, body string) Effect {
	e := effect()
	e.status, e.header, e.body = status, header, body
	return e
}

// Status replaces the answer by an empty one with this status.
func Status(status int) Effect { return Answer(status, nil, "") }

// RateLimited answers 429 as the Hub does when a quota is used up, with the
// window ending after reset (whole seconds).
func RateLimited(quota string, reset time.Duration) Effect {
	return Answer(http.StatusTooManyRequests, http.Header{
		"Ratelimit":        {`"` + quota + `";r=0;t=` + strconv.Itoa(int(reset.Seconds()))},
		"Ratelimit-Policy": {`"fixed window";"` + quota + `";q=3000;w=300`},
	}, "")
}

// CutAfter closes the connection after n bytes of body; with 0 before the
// status line.
func CutAfter(n int64) Effect {
	e := effect()
	e.cutAfter = n
	return e
}

// StallAfter sends n bytes of body, then nothing, until the client or the Hub
// goes away.
func StallAfter(n int64) Effect {
	e := effect()
	e.stallAfter = n
	return e
}

// WrongByte inverts the byte at this offset of the file.
func WrongByte(offset int64) Effect {
	e := effect()
	e.wrongByte = offset
	return e
}

// IgnoreRange answers 200 with the whole file, whatever range was asked for.
func IgnoreRange() Effect {
	e := effect()
	e.ignoreRange = true
	return e
}

// ExpiredSignature makes the CDN refuse the URL as if it had expired.
func ExpiredSignature() Effect {
	e := effect()
	e.expired = true
	return e
}

// rule is a fault in force.
type rule struct {
	Fault
	seen int
}

// Inject puts a fault in force and returns a function that ends it. Of several
// faults that match a request, the first injected breaks it.
func (h *Hub) Inject(f Fault) (remove func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &rule{Fault: f}
	h.rules = append(h.rules, r)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for i, other := range h.rules {
			if other == r {
				h.rules = append(h.rules[:i:i], h.rules[i+1:]...)
				return
			}
		}
	}
}

// faultFor returns the effect that breaks req, or the one that does nothing.
func (h *Hub) faultFor(req *Request) Effect {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.rules {
		if !r.matches(req) {
			continue
		}
		r.seen++
		if r.seen > r.Skip && (r.Times == 0 || r.seen <= r.Skip+r.Times) {
			return r.Effect
		}
	}
	return effect()
}
