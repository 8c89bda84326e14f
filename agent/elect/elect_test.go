package elect_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/agent/elect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const duration = 30 * time.Second

// lease keeps a record in memory, with an object's versions.
type lease struct {
	mu     sync.Mutex
	record *elect.Record
	writes int
	away   error
}

func (l *lease) do(f func() (elect.Record, error)) (elect.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return elect.Record{}, l.away
	}
	return f()
}

func (l *lease) put(r elect.Record) (elect.Record, error) {
	l.writes++
	r.Version = strconv.Itoa(l.writes)
	l.record = &r
	return r, nil
}

func (l *lease) Get(context.Context) (elect.Record, error) {
	return l.do(func() (elect.Record, error) {
		if l.record == nil {
			return elect.Record{}, elect.ErrNotFound
		}
		return *l.record, nil
	})
}

func (l *lease) Create(_ context.Context, r elect.Record) (elect.Record, error) {
	return l.do(func() (elect.Record, error) {
		if l.record != nil {
			return elect.Record{}, elect.ErrConflict
		}
		return l.put(r)
	})
}

func (l *lease) Update(_ context.Context, r elect.Record) (elect.Record, error) {
	return l.do(func() (elect.Record, error) {
		if l.record == nil || l.record.Version != r.Version {
			return elect.Record{}, elect.ErrConflict
		}
		return l.put(r)
	})
}

func (l *lease) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

type voter struct {
	*elect.Elector
	stop func()
}

func (v *voter) leads() bool { _, ok := v.Leading(); return ok }

func join(t *testing.T, l elect.Lease, who string, ready func() bool) *voter {
	ctx, cancel := context.WithCancel(t.Context())
	e := elect.New(elect.Options{Lease: l, Identity: who, Duration: duration, Ready: ready, Changed: func() {}, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Run(ctx)
	}()
	v := &voter{Elector: e, stop: sync.OnceFunc(func() {
		cancel()
		<-done
	})}
	t.Cleanup(v.stop)
	return v
}

func leaders(voters ...*voter) int {
	n := 0
	for _, v := range voters {
		if v.leads() {
			n++
		}
	}
	return n
}

func TestOneLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		var all []*voter
		for i := range 32 {
			all = append(all, join(t, l, "n"+strconv.Itoa(i), nil))
		}
		for range 100 {
			time.Sleep(time.Second)
			if n := leaders(all...); n != 1 {
				t.Fatalf("%d lead", n)
			}
		}
		if l.record.Transitions != 0 {
			t.Errorf("the leader changed %d times", l.record.Transitions)
		}
		for _, v := range all {
			if v.Holder() != l.record.Holder {
				t.Errorf("one believes that %q leads, it is %q", v.Holder(), l.record.Holder)
			}
			v.stop()
		}
	})
}

func TestDeadLeaderIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		a := join(t, l, "a", nil)
		synctest.Wait()
		b := join(t, l, "b", nil)
		time.Sleep(time.Minute)
		if !a.leads() || b.leads() {
			t.Fatal("the first one does not lead")
		}
		a.stop()
		at := time.Now()
		for !b.leads() {
			time.Sleep(100 * time.Millisecond)
			if time.Since(at) > duration+2*duration/6 {
				t.Fatal("nobody follows")
			}
		}
		if since := time.Since(at); since < duration-duration/6 {
			t.Errorf("it was followed after %s, when it might have lived", since)
		}
		b.stop()
	})
}

// The one that holds the Lease stops before another one may begin.
func TestStopsBeforeAnotherBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		a := join(t, l, "a", nil)
		synctest.Wait()
		time.Sleep(10 * time.Second)
		leading, ok := a.Leading()
		if !ok {
			t.Fatal("it does not lead")
		}
		l.set(func() { l.away = errors.New("no answer") })
		at := time.Now()
		<-leading.Done()
		if since := time.Since(at); since > duration*2/3 {
			t.Errorf("it led for %s without renewing", since)
		}
		if !errors.Is(context.Cause(leading), elect.ErrLost) || a.leads() {
			t.Errorf("it ended with %v", context.Cause(leading))
		}
		l.set(func() { l.away = nil })
		time.Sleep(2 * duration)
		if !a.leads() {
			t.Error("it does not lead again")
		}
		a.stop()
	})
}

func TestLeadsNoMoreWhenAnotherHasTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		a := join(t, l, "a", nil)
		synctest.Wait()
		time.Sleep(time.Second)
		l.set(func() {
			r := *l.record
			r.Holder = "somebody"
			if _, err := l.put(r); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(duration / 6)
		synctest.Wait()
		if a.leads() || a.Holder() != "somebody" {
			t.Errorf("it leads, or takes %q for the leader", a.Holder())
		}
		a.stop()
	})
}

func TestReleaseLetsTheNextBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		a := join(t, l, "a", nil)
		synctest.Wait()
		b := join(t, l, "b", nil)
		time.Sleep(time.Second)
		a.stop()
		if err := a.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(duration/6 + 2*time.Second)
		if !b.leads() {
			t.Error("nobody follows")
		}
		b.stop()
	})
}

func TestWhoIsNotReadyDoesNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ready := &lease{}, &atomic.Bool{}
		a := join(t, l, "a", ready.Load)
		time.Sleep(2 * duration)
		a.stop()
		if a.leads() || l.writes > 0 {
			t.Error("it leads")
		}
		ready.Store(true)
		a = join(t, l, "a", ready.Load)
		time.Sleep(duration / 6)
		synctest.Wait()
		if !a.leads() {
			t.Error("it does not lead")
		}
		a.stop()
	})
}
