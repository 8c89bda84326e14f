package hf

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// The Hub's rate limits that this driver meets, by the names that the Hub
// gives them.
const (
	limitAPI      = "api"
	limitResolves = "resolvers"
)

// requestsOf says in words which requests a limit counts.
func requestsOf(limit string) string {
	if limit == limitResolves {
		return "file requests"
	}
	return "API calls"
}

const (
	// maxSpent bounds how long a limit is taken for used up: a header with a slip in it
	// must not stop a node for a day. The Hub's own window has 5 minutes.
	maxSpent = time.Hour
	// leastSpent is the shortest wait that counts as a limit that is used up where the
	// answer does not speak of one: shorter ones are the engine's to sit out.
	leastSpent = 10 * time.Second
	// maxSpread bounds over how long returns are spread.
	maxSpread = 30 * time.Minute
)

// limits remembers which of the Hub's quotas are used up, and until when this process
// refuses by itself instead of asking: all who share the quota (an account's, or an
// address's) would return in the second in which it is renewed, most of them for nothing,
// and each refused request would prolong the limit. So each returns at a moment of its own
// after that: spread over as long as the quota had still to run, and over twice as long
// each time that it returns and gets nothing. Whoever gets something takes all that it
// needs, so as long as there are more waiting than the quota serves, none of it is lost.
type limits struct {
	mu    sync.Mutex
	spent map[string]spent
}

// spent is one quota that is, or was, used up.
type spent struct {
	// until is when the quota is renewed, back when this process may ask again.
	until, back time.Time
	// refused is how often in a row it returned and got nothing.
	refused int
}

// learn reads the RateLimit header, which is on every answer of the Hub. share is a
// random number in [0,1): where in the time of return this process comes.
func (l *limits) learn(limit string, status int, header http.Header, now time.Time, share float64) {
	reset, empty := rateLimitReset(header)
	if after := httpsource.RetryAfter(header); !empty && status == http.StatusTooManyRequests && after >= leastSpent {
		reset, empty = after, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.spent[limit]
	switch {
	case status != http.StatusTooManyRequests:
		s.refused = 0
	case empty && !now.Before(s.back): // not of those that were under way when the first was refused
		s.refused++
	}
	if empty {
		reset = min(reset, maxSpent)
		until, spread := now.Add(reset), reset-reset/10 // a little less: twice the Hub's window is as much as most who wait can bear
		for range min(max(s.refused-1, 0), 16) {
			spread = min(2*spread, maxSpread)
		}
		if back := until.Add(time.Duration(share * float64(spread))); now.After(s.back) || until.After(s.until.Add(leastSpent)) {
			s.back = back // else it is the same window: one draw for all of its answers
		}
		s.until = until
	}
	if l.spent == nil {
		l.spent = map[string]spent{}
	}
	l.spent[limit] = s
}

// left returns for how long this process does not ask, and when the quota is renewed.
func (l *limits) left(limit string, now time.Time) (wait time.Duration, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.spent[limit]
	return max(0, s.back.Sub(now)), s.until
}

// share is a random number in [0,1).
func share() float64 { return rand.Float64() }

// rateLimitReset reads `"resolvers";r=0;t=55`: nothing left, for 55 seconds
// more (and one for rounding). spent is false as long as something is left.
func rateLimitReset(header http.Header) (reset time.Duration, spent bool) {
	for _, part := range strings.Split(header.Get("RateLimit"), ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch key {
		case "r":
			spent = value == "0"
		case "t":
			if n, err := strconv.ParseUint(value, 10, 32); err == nil {
				reset = time.Duration(n+1) * time.Second
			}
		}
	}
	return reset, spent && reset > 0
}

// retryAfter is how long the answer asks to wait: by RateLimit, else by
// Retry-After in seconds or as a date; 0 if it does not say.
func retryAfter(header http.Header) time.Duration {
	if reset, spent := rateLimitReset(header); spent {
		return reset
	}
	return httpsource.RetryAfter(header)
}
