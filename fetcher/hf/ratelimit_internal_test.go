package hf

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// limitAnswer is what the Hub says of a quota.
func limitAnswer(left, seconds int) http.Header {
	return http.Header{"Ratelimit": {fmt.Sprintf(`"api";r=%d;t=%d`, left, seconds)}}
}

// Returns are spread over the rest of the window, and over more each time that a
// process comes back for nothing; what it gets ends that.
func TestReturnsAreSpread(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	for _, share := range []float64{0, 0.25, 0.999} {
		var l limits
		now := start
		step := func(what string, status int, header http.Header, until, spread time.Duration) {
			t.Helper()
			l.learn(limitAPI, status, header, now, share)
			wait, renewed := l.left(limitAPI, now)
			if want := until + time.Duration(share*float64(spread)); wait != want {
				t.Errorf("%s: returns after %s, want %s", what, wait, want)
			}
			if until > 0 && renewed.Sub(now) != until {
				t.Errorf("%s: renewed after %s, want %s", what, renewed.Sub(now), until)
			}
			now = now.Add(wait)
		}
		step("something is left", 200, limitAnswer(7, 100), 0, 0)
		step("the last call was its own", 200, limitAnswer(0, 99), 100*time.Second, 90*time.Second)
		step("refused", 429, limitAnswer(0, 299), 300*time.Second, 270*time.Second)
		step("refused again", 429, limitAnswer(0, 199), 200*time.Second, 360*time.Second)
		step("and again", 429, limitAnswer(0, 299), 300*time.Second, 1080*time.Second)
		step("and again", 429, limitAnswer(0, 299), 300*time.Second, maxSpread)
		step("served", 200, limitAnswer(3, 200), 0, 0)
		step("refused after that", 429, limitAnswer(0, 59), 60*time.Second, 54*time.Second)
		step("Retry-After alone", 429, http.Header{"Retry-After": {"20"}}, 20*time.Second, 36*time.Second)
	}
}

// Answers of one window agree about when to return, also those that were under way.
func TestOneReturnForAWindow(t *testing.T) {
	var l limits
	now := time.Unix(1_000_000, 0)
	l.learn(limitAPI, 429, limitAnswer(0, 99), now, 0.5)
	first, _ := l.left(limitAPI, now)
	for i := range 5 {
		l.learn(limitAPI, 429, limitAnswer(0, 99-i), now.Add(time.Duration(i)*time.Second), 0.9)
	}
	if again, _ := l.left(limitAPI, now); again != first || l.spent[limitAPI].refused != 1 {
		t.Errorf("returns after %s, then %s; refused %d times", first, again, l.spent[limitAPI].refused)
	}
	// A short wait that speaks of no quota closes nothing.
	l = limits{}
	l.learn(limitAPI, 429, http.Header{"Retry-After": {"2"}}, now, 0.5)
	l.learn(limitAPI, 503, http.Header{"Retry-After": {"200"}}, now, 0.5)
	if wait, _ := l.left(limitAPI, now); wait != 0 {
		t.Errorf("closed for %s", wait)
	}
}
