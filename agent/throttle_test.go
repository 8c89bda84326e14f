package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

const hubHost = "huggingface.co"

// spentUntil is what a driver says while a quota is used up; the node returns a minute
// after it is renewed.
func spentUntil(until time.Time) error {
	left := time.Until(until)
	if left <= 0 {
		return nil
	}
	return fmt.Errorf("pull: %w", &fetcher.Error{
		Kind: fetcher.ErrThrottled, Op: "list", Origin: "hf://org/a", Err: errors.New("429"), Hint: "wait", RetryAfter: left + time.Minute,
		Quota: fetcher.Quota{Host: hubHost, Requests: "API calls", Until: until},
	})
}

// Models whose source is throttled hold no place, are not called failed, and come back
// when their driver says so; everybody is told why, and the fleet once.
func TestThrottledPullsGiveTheirPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: [{name: a, source: 'hf://org/a', priority: 9}, {name: b, source: 'hf://org/b', priority: 9}, {name: c, source: 'file:///models/c'}]\n"+fast)
		until := time.Now().Add(5 * time.Minute)
		tries := 0
		b.puller.set(func() {
			b.puller.takes = 0
			b.puller.refuse = func(req fetcher.Request) error {
				if req.Source.Scheme != fetcher.SchemeHub {
					return nil
				}
				tries++
				return spentUntil(until)
			}
		})
		b.start()
		after(3 * time.Second)
		if got := b.cluster.label(WarmPrefix + "c"); got != "disk" {
			t.Fatalf("the label of a model behind two throttled ones is %q", got)
		}
		if tries != 2 {
			t.Errorf("%d tries of two models", tries)
		}
		reason := "the quota of API calls at huggingface.co is used up until " + until.UTC().Format("15:04 UTC")
		if st := b.store.status("a"); st.State != string(StateQueued) || st.Reason != reason || st.Code != "" || !strings.HasPrefix(st.Hint, "wait; pinned commits") {
			t.Errorf("those who wait read %+v", st)
		}
		if !strings.Contains(b.cluster.view.Status, `"throttled":[{"host":"huggingface.co","requests":"API calls","until":"`+until.UTC().Format(time.RFC3339)+`"}]`) {
			t.Errorf("the annotation has no quota: %s", b.cluster.view.Status)
		}
		if want := fmt.Sprintf("stoker_source_throttled_until_timestamp_seconds{host=%q}", hubHost); !strings.Contains(page(t, b.agent), want) {
			t.Errorf("no metric %s", want)
		}
		after(4 * time.Minute)
		if tries != 2 {
			t.Errorf("%d tries before the time", tries)
		}
		after(3 * time.Minute)
		for _, name := range []string{"a", "b"} {
			if got := b.cluster.label(WarmPrefix + name); got != "disk" {
				t.Errorf("the label of %s is %q after the quota was renewed", name, got)
			}
		}
		if strings.Contains(page(t, b.agent), "throttled_until") || strings.Contains(b.cluster.view.Status, "throttled") {
			t.Error("the quota is still called used up")
		}
		if n := b.cluster.told(EventModelPullFailed); n != 0 {
			t.Errorf("%d failures told", n)
		}
		if n := b.cluster.told(EventSourceThrottled); n != 1 {
			t.Errorf("the fleet was told %d times", n)
		}
	})
}

// A quota that is used up takes nothing from what is warm.
func TestThrottledLookUpStaysWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: [{name: a, source: 'hf://org/a', refresh: 1m}]\n"+fast)
		b.start()
		after(3 * time.Second)
		_, before := b.puller.count() // its first look-up may have been due already
		until := time.Now().Add(10 * time.Minute)
		b.puller.set(func() { b.puller.refuse = func(fetcher.Request) error { return spentUntil(until) } })
		after(5 * time.Minute)
		if _, lookups := b.puller.count(); lookups != before+1 || b.cluster.label(WarmPrefix+"a") != "disk" {
			t.Errorf("%d lookups, label %q", lookups, b.cluster.label(WarmPrefix+"a"))
		}
		if st := b.store.status("a"); st.State != string(StateWarm) || !strings.Contains(st.Reason, "used up until") {
			t.Errorf("those who wait read %+v", st)
		}
	})
}

// All nodes would create one object.
func TestFleetEventHasOneName(t *testing.T) {
	q := fetcher.Quota{Host: hubHost, Requests: "API calls"}
	now := time.Unix(1_700_000_000, 0).Truncate(time.Hour)
	name := fleetEventName(q, now)
	if fleetEventName(q, now.Add(59*time.Minute)) != name {
		t.Error("nodes that hear of it within an hour name it otherwise")
	}
	other := q
	other.Host = "mirror"
	if fleetEventName(q, now.Add(time.Hour)) == name || fleetEventName(other, now) == name {
		t.Error("another hour or host has the same name")
	}
	for release, want := range map[string]string{"ns/rel": "ns", "": "default", "rel": "default"} {
		if got := namespaceOf(release); got != want {
			t.Errorf("%q is in %q", release, got)
		}
	}
}

// A fleet that pulled together, or that was down together, looks up apart: evenly over an
// interval, and never later than that.
func TestLookUpsAreSpread(t *testing.T) {
	const nodes = 1000
	for name, c := range map[string]struct {
		lookedUp time.Time
		within   time.Duration
	}{
		"just pulled":       {noon, time.Hour},
		"restarted":         {noon.Add(-30 * time.Minute), 30 * time.Minute},
		"was down":          {noon.Add(-72 * time.Hour), time.Hour},
		"nobody knows when": {time.Time{}, time.Hour},
	} {
		var quarters [4]int
		for range nodes {
			r := record{LookedUp: c.lookedUp}
			r.spreadLookUp(noon, time.Hour)
			f := world(Model{Name: "a", Source: source(t, "hf://org/a"), Refresh: time.Hour})
			f.Store.Value.Models["a"] = published(f.List[0], nil)
			f.Memory["a"], f.Promised["a"] = r, true
			d := plan(f)
			at := d.Wake.Sub(noon)
			if len(d.Start) > 0 || at < 0 || at > c.within {
				t.Fatalf("%s: looked up after %s, want within %s", name, at, c.within)
			}
			quarters[min(3, int(4*at/c.within))]++
		}
		for i, n := range quarters {
			if n < nodes/5 || n > nodes/3 {
				t.Errorf("%s: %d of %d nodes ask in quarter %d", name, n, nodes, i)
			}
		}
	}
}

// Who has found nothing new looks up again a little early, each node in its own rhythm.
func TestLookUpsKeepTheirRhythm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: [{name: a, source: 'hf://org/a', refresh: 2m}]\n"+fast)
		var asked []time.Time
		b.puller.set(func() {
			b.puller.refuse = func(fetcher.Request) error {
				asked = append(asked, time.Now())
				return nil
			}
		})
		b.start()
		after(20 * time.Minute)
		if len(asked) < 10 {
			t.Fatalf("asked %d times", len(asked))
		}
		for i := 2; i < len(asked); i++ { // after the pull, and the first look-up
			if every := asked[i].Sub(asked[i-1]); every < 108*time.Second || every > 2*time.Minute+2*time.Second {
				t.Errorf("looked up again after %s", every)
			}
		}
	})
}

// Entries that are new in the list begin one after the other, unless a pod waits.
func TestNewEntriesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var begun []time.Duration
		for range 12 {
			b := newBench(t, "models: []\n"+fast)
			b.start()
			asked := false // looking it up again may come soon after
			b.puller.set(func() {
				b.puller.refuse = func(req fetcher.Request) error {
					mu.Lock()
					defer mu.Unlock()
					if req.Name == "a" && !asked {
						asked = true
						begun = append(begun, time.Since(start))
					}
					return nil
				}
			})
			after(0)
			b.write("models: [{name: a, source: 'hf://org/a'}, {name: b, source: 's3://bucket/b'}]\n" + fast)
		}
		after(5 * time.Second)
		list := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(begun)
		}
		if n := len(list()); n > 8 {
			t.Errorf("%d of 12 nodes asked the Hub within seconds", n)
		}
		after(35 * time.Second)
		if all := list(); len(all) != 12 || all[11] > listSpread+5*time.Second {
			t.Errorf("they began after %s", all)
		}
	})
	f := world(entry(t, "a"))
	f.Memory["a"] = record{NotBefore: f.Now.Add(time.Minute)}
	if d := plan(f); len(d.Start) != 0 || d.Wake.IsZero() || d.Models[0].Reason == "" {
		t.Errorf("a new entry is begun at once: %+v", d)
	}
	f.Pods = []pod{podFor("a")}
	if d := plan(f); len(d.Start) != 1 {
		t.Errorf("an entry that a pod waits for is not begun: %+v", d)
	}
}
