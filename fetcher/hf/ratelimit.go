package hf

import (
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

// maxSpent bounds how long a limit is taken for used up: a header with a slip in it
// must not stop a node for a day. The Hub's own window has 5 minutes.
const maxSpent = time.Hour

// limits remembers which of the Hub's quotas are used up, so that the driver
// refuses by itself instead of asking: each refused request would prolong the
// limit.
type limits struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// learn reads the RateLimit header, which is on every answer of the Hub.
func (l *limits) learn(limit string, header http.Header) {
	reset, spent := rateLimitReset(header)
	if !spent {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	l.until[limit] = time.Now().Add(min(reset, maxSpent))
}

// left returns how long a limit is still used up.
func (l *limits) left(limit string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.until[limit]))
}

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
