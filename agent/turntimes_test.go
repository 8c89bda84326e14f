package agent

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/fetcher/store"
)

const (
	leaseTime = 30 * time.Second
	leaveTime = 12 * time.Second
	// onShared is a configuration of agents that share a volume.
	onShared = "volume: {mode: shared, namespace: ns, lease: l, leaseDuration: 30s}\n" +
		"intervals: {observe: 1s, labelWrites: 1s, verify: 2s, gpu: 5s, retryMin: 1s, retryMax: 8s, resync: 10s, timeout: 4s, grace: 10s, gpuRise: 5s, gpuLeak: 1m, leave: 12s}\n"
)

// leaseObject is one Lease of an API server.
type leaseObject struct {
	mu     sync.Mutex
	record *elect.Record
	writes int
}

// leaseView is one machine's way to it, which may be cut.
type leaseView struct {
	object *leaseObject

	mu      sync.Mutex
	away    error
	renewed time.Time // when this machine wrote it last
}

func (v *leaseView) cut(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = err
}

func (v *leaseView) last() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.renewed
}

func (v *leaseView) do(f func(o *leaseObject) (elect.Record, error)) (elect.Record, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away != nil {
		return elect.Record{}, v.away
	}
	v.object.mu.Lock()
	defer v.object.mu.Unlock()
	return f(v.object)
}

func (v *leaseView) Get(context.Context) (elect.Record, error) {
	return v.do(func(o *leaseObject) (elect.Record, error) {
		if o.record == nil {
			return elect.Record{}, elect.ErrNotFound
		}
		return *o.record, nil
	})
}

func (v *leaseView) Create(_ context.Context, r elect.Record) (elect.Record, error) {
	return v.write(r, func(o *leaseObject) bool { return o.record == nil })
}

func (v *leaseView) Update(_ context.Context, r elect.Record) (elect.Record, error) {
	return v.write(r, func(o *leaseObject) bool { return o.record != nil && o.record.Version == r.Version })
}

func (v *leaseView) write(r elect.Record, may func(*leaseObject) bool) (elect.Record, error) {
	return v.do(func(o *leaseObject) (elect.Record, error) {
		if !may(o) {
			return elect.Record{}, elect.ErrConflict
		}
		o.writes++
		r.Version = strconv.Itoa(o.writes)
		o.record, v.renewed = &r, time.Now()
		return r, nil
	})
}

// newSharing makes an agent that takes turns by the Lease.
func newSharing(t *testing.T, config string, object *leaseObject) (*bench, *leaseView) {
	t.Helper()
	view := &leaseView{object: object}
	b := newBench(t, "models: []\n"+fast)
	b.cluster.leases = view
	b.write(config)
	b.make()
	return b, view
}

func (b *bench) writes() bool { return b.agent.turns.writes.Load() }

func (b *bench) leadsStore() bool {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	return b.store.leading
}

// Who leads writes, and stops when two thirds of the Lease have gone without a
// renewal: before another one may begin, which waits for the whole of it.
func TestTurnsWriterStopsBeforeAnotherBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		object := &leaseObject{}
		first, view := newSharing(t, oneModel+onShared, object)
		second, _ := newSharing(t, oneModel+onShared, object)
		first.puller.takes = time.Hour
		first.start()
		after(10 * time.Second)
		second.start()
		after(time.Minute)
		if !first.writes() || !first.leadsStore() || second.writes() || second.leadsStore() {
			t.Fatal("not the first one, and only that one, writes")
		}
		if pulls, _ := first.puller.count(); pulls != 1 {
			t.Fatalf("it began %d pulls", pulls)
		}
		if pulls, _ := second.puller.count(); pulls != 0 {
			t.Errorf("who does not write began %d pulls", pulls)
		}
		view.cut(errors.New("no route to host"))
		renewed := view.last()
		var stopped, began time.Duration
		for began == 0 {
			after(100 * time.Millisecond)
			since := time.Since(renewed)
			if stopped == 0 && !first.writes() {
				stopped = since
				if first.leadsStore() || first.agent.pulls.any() {
					t.Errorf("it writes no more, and yet the store is led (%v) or a pull goes on", first.leadsStore())
				}
			}
			if second.writes() {
				began = since
			}
			if first.writes() && second.writes() {
				t.Fatal("both write")
			}
			if since > 3*leaseTime {
				t.Fatalf("nobody follows; the first one stopped after %s", stopped)
			}
		}
		if limit := leaseTime * 2 / 3; stopped < limit-time.Second || stopped > limit+200*time.Millisecond {
			t.Errorf("it stopped %s after its last renewal, want %s", stopped, limit)
		}
		if began < leaseTime {
			t.Errorf("the next one began after %s, within the Lease of %s", began, leaseTime)
		}
		second.stop()
		first.stop()
	})
}

// An agent that was paused while it became the store's writer finds out that its
// time is over before it does anything.
func TestTurnsPausedWhileItBecameTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, view := newSharing(t, oneModel+onShared, &leaseObject{})
		paused := make(chan struct{})
		goOn := make(chan struct{})
		b.store.onLead = sync.OnceFunc(func() {
			close(paused)
			<-goOn
		})
		b.start()
		<-paused
		view.cut(errors.New("no route to host"))
		after(leaseTime)
		close(goOn)
		after(5 * time.Second)
		if pulls, _ := b.puller.count(); b.writes() || b.leadsStore() || pulls != 0 {
			t.Errorf("it writes (%v), the store is led (%v), %d pulls", b.writes(), b.leadsStore(), pulls)
		}
		view.cut(nil)
		after(leaseTime + leaseTime/3)
		if !b.writes() || !b.leadsStore() {
			t.Error("it does not write when it leads again")
		}
		b.stop()
	})
}

// A write that was fenced ends the time of writing at once, whatever the Lease
// says, and all pulls with it. What still leads begins anew.
func TestTurnsFencedWriterEndsAllThatWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newSharing(t, oneModel+onShared, &leaseObject{})
		b.puller.takes = time.Hour
		b.start()
		after(10 * time.Second)
		if pulls, _ := b.puller.count(); pulls != 1 || !b.writes() {
			t.Fatalf("%d pulls, it writes: %v", pulls, b.writes())
		}
		before := len(b.store.led)
		b.store.set(func() {
			b.store.onLead = func() {
				if b.writes() || b.agent.pulls.any() {
					t.Error("it leads the store anew while what it did before goes on")
				}
			}
		})
		_ = b.agent.fencedBy(store.ErrFenced)
		after(10 * time.Second)
		if pulls, _ := b.puller.count(); len(b.store.led) != before+1 || pulls != 2 || !b.writes() {
			t.Errorf("the store was led %d times more, %d pulls, it writes: %v", len(b.store.led)-before, pulls, b.writes())
		}
		b.stop()
	})
}

// A model leaves when no other Node was seen to promise it for all of the time in
// which every agent looks: one that says it again begins that time anew.
func TestTurnsRemovalWaitsForAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newSharing(t, oneModel+onShared, &leaseObject{})
		b.cluster.carrying = map[string]string{"other": commit[:12]}
		b.start()
		after(20 * time.Second)
		here := func() bool {
			b.store.mu.Lock()
			defer b.store.mu.Unlock()
			return len(b.store.models) == 1
		}
		if !here() {
			t.Fatal("it was not pulled")
		}
		b.write("models: []\n" + onShared)
		after(5 * time.Minute)
		if !here() {
			t.Fatal("removed while another node promised it")
		}
		carry := func(nodes map[string]string) {
			b.cluster.set(func() { b.cluster.carrying = nodes })
		}
		carry(nil)
		after(leaveTime / 2)
		carry(map[string]string{"other": commit[:12]})
		after(leaveTime / 2)
		carry(nil)
		gone := time.Now()
		for here() {
			after(100 * time.Millisecond)
			if time.Since(gone) > 3*leaveTime {
				t.Fatal("it stays")
			}
		}
		if since := time.Since(gone); since < leaveTime {
			t.Errorf("removed %s after the last Node's label, want at least %s", since, leaveTime)
		}
		b.stop()
	})
}

// What a follower has seen of the volume is good for half of the time that a
// removal waits: an agent that was paused looks again before it speaks.
func TestTurnsPausedFollowerLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newSharing(t, oneModel+onShared, &leaseObject{})
		a := b.agent
		seen := func(ago time.Duration, shared sharedFacts) facts {
			f := facts{Shared: shared}
			f.Store.Known, f.Store.Asked = true, time.Now().Add(-ago)
			return f
		}
		follows, writes := sharedFacts{On: true}, sharedFacts{On: true, Writes: true}
		for name, tc := range map[string]struct {
			f    facts
			want bool
		}{
			"just seen":            {seen(time.Second, follows), false},
			"seen before that":     {seen(leaveTime/2-time.Millisecond, follows), false},
			"seen too long ago":    {seen(leaveTime/2, follows), true},
			"by who writes":        {seen(time.Hour, writes), false},
			"on a disk of its own": {seen(time.Hour, sharedFacts{}), false},
		} {
			if got := a.tooOld(time.Now(), tc.f); got != tc.want {
				t.Errorf("%s: too old %v, want %v", name, got, tc.want)
			}
			if looks := a.lookAgain.Swap(false); looks != tc.want {
				t.Errorf("%s: it looks again: %v, want %v", name, looks, tc.want)
			}
		}
	})
}
