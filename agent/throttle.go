package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// EventSourceThrottled is the reason of an event of the whole fleet: a source's quota is
// used up, and nodes wait for it.
const EventSourceThrottled = "SourceThrottled"

// listSpread is over how long the nodes of a fleet begin with entries of the Hub that are
// new or changed in their list, each at a moment of its own: the kubelets hand a changed list to all
// of them within a minute, and a thousand would ask in the same seconds. An entry that a
// pod here waits for begins at once, as does one that had failed, since somebody mends it,
// and the list of an agent that starts, of which nothing is new.
const listSpread = 30 * time.Second

// throttled are the quotas that sources said are used up, by host and kind of request.
type throttled map[quotaKey]time.Time

type quotaKey struct{ host, requests string }

// learn takes over what an attempt found out, and reports whether it is news.
func (t throttled) learn(q fetcher.Quota, now time.Time) bool {
	key := quotaKey{q.Host, q.Requests}
	until := q.Until
	if latest := now.Add(maxRetryAfter); until.After(latest) {
		until = latest
	}
	old, known := t[key]
	if until.After(old) {
		t[key] = until
	}
	return !known
}

// expire forgets the quotas that are renewed.
func (t throttled) expire(now time.Time) {
	for key, until := range t {
		if !now.Before(until) {
			delete(t, key)
		}
	}
}

// list is what the annotation has of them, in a fixed order.
func (t throttled) list() []ThrottledStatus {
	var out []ThrottledStatus
	for key, until := range t {
		out = append(out, ThrottledStatus{Host: key.host, Requests: key.requests, Until: minuteAfter(until)})
	}
	slices.SortFunc(out, func(a, b ThrottledStatus) int { return strings.Compare(a.Host+" "+a.Requests, b.Host+" "+b.Requests) })
	return out
}

// byHost is the latest of each host's, for its metric.
func (t throttled) byHost() map[string]time.Time {
	out := map[string]time.Time{}
	for key, until := range t {
		if until.After(out[key.host]) {
			out[key.host] = until
		}
	}
	return out
}

// minuteAfter rounds up: nodes of a fleet hear of one moment within a second or two, and
// are to say the same.
func minuteAfter(t time.Time) time.Time {
	return t.UTC().Add(time.Minute - time.Nanosecond).Truncate(time.Minute)
}

// quotaReason says what a model waits for.
func quotaReason(q fetcher.Quota) string {
	return fmt.Sprintf("the quota of %s at %s is used up until %s", q.Requests, q.Host, minuteAfter(q.Until).Format("15:04 UTC"))
}

// lessQuota is what to do about a quota that is used up, beside waiting.
const lessQuota = "pinned commits, a mirror and a controller need less of it (docs/fleet.md)"

// pullThrottled takes the outcome of an attempt that a source's quota ended. That is no
// failure of the model: it waits, for as long as its driver says, and its place is free.
func (a *Agent) pullThrottled(now time.Time, out outcome, r record, q fetcher.Quota) {
	l := &a.loop
	f, wait := failureOf(out.Err)
	f.Reason, f.Hint = a.o.Secrets.Scrub(f.Reason), a.o.Secrets.Scrub(f.Hint)
	r.Next = now.Add(max(wait, l.cfg.Intervals.RetryMin))
	f.Until = r.Next
	r.Failure, r.PulledRevision = f, ""
	l.records[out.Model.Name] = r
	a.logger.Debug("wait for a quota", "model", out.Model.Name, "source", out.Model.Source.String(), "next", r.Next, "error", errText(out.Err))
	if !l.throttled.learn(q, now) {
		return
	}
	a.logger.Warn("a source's quota is used up", "host", q.Host, "requests", q.Requests, "until", q.Until, "next", r.Next)
	a.events.record(event{
		Reason: EventSourceThrottled, Action: "Pull", Warning: true, Fleet: fleetEventName(q, now),
		Note: quotaReason(q) + ": nodes wait and return one by one after that; `stoker status` counts them; " + lessQuota,
	})
}

// fleetEventName is the name of the event object that all nodes of a fleet would create
// for one quota in one hour, so that only one of them does. The API server drops events
// after an hour by default.
func fleetEventName(q fetcher.Quota, now time.Time) string {
	sum := sha256.Sum256([]byte(q.Host + " " + q.Requests))
	return fmt.Sprintf("stoker-throttled.%s.%d", hex.EncodeToString(sum[:5]), now.Unix()/3600)
}

// spreadNew has entries of the Hub that a changed list brings begin at a moment of their
// own within listSpread.
func (l *loopState) spreadNew(now time.Time, old []Model) {
	had := make(map[string]string, len(old))
	for _, m := range old {
		had[m.Name] = m.transfer()
	}
	for _, m := range l.cfg.Models {
		if m.Source.Scheme != fetcher.SchemeHub || had[m.Name] == m.transfer() {
			continue
		}
		r := l.records[m.Name]
		if r.Failure != nil {
			continue // somebody mends it, and watches
		}
		r.NotBefore = now.Add(rand.N(listSpread))
		l.records[m.Name] = r
	}
}

// spreadLookUp decides how much earlier than its interval a model is looked up again, so
// that the nodes of a fleet that pulled it together, or started together, do not ask
// together for ever. It is never later than the interval.
func (r *record) spreadLookUp(now time.Time, refresh time.Duration) {
	if r.Spread {
		return
	}
	r.Spread = true
	left := r.LookedUp.Add(refresh).Sub(now)
	if left <= 0 {
		// Nobody knows how old it is, or it is overdue, as in a fleet that was down.
		r.LookedUp, left = now, refresh
	}
	r.Early = rand.N(left)
}
