package sharedfaults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/ordeal"
	"github.com/stoker-project/stoker/test/weakfs"
)

type (
	step = ordeal.Step[*world]
	kind = ordeal.Kind[*world]
)

// who chooses an agent when a step is taken.
type who struct {
	name   string
	choose func(w *world) *member
}

// someone is the writer or, by a number that the seed decides, a follower.
func someone(r *rand.Rand) who {
	if r.IntN(2) == 0 {
		return theWriter()
	}
	return aFollower(r)
}

func theWriter() who { return who{"the writer", func(w *world) *member { return w.writer() }} }

func aFollower(r *rand.Rand) who {
	n := r.IntN(64)
	return who{fmt.Sprintf("follower %d", n), func(w *world) *member { return w.follower(n) }}
}

// lives are what happens to the agents' processes.
func lives() []kind {
	kill := func(of func(r *rand.Rand) who, signal syscall.Signal, name string) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			whose, before, after := of(r), ordeal.Within(r, 900*time.Millisecond), ordeal.Within(r, 4*time.Second)
			return step{Name: fmt.Sprintf("%s of %s after %s, start after %s", name, whose.name, before, after), Run: func(w *world) {
				w.pause(before)
				m := whose.choose(w)
				w.note("it is %s", m.node)
				m.end(signal)
				w.pause(after)
				m.ensure()
			}}
		}
	}
	stop := func(of func(r *rand.Rand) who, least, more time.Duration) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			whose, before, length := of(r), ordeal.Within(r, 900*time.Millisecond), least+ordeal.Within(r, more)
			return step{Name: fmt.Sprintf("no processor for %s for %s after %s", whose.name, length, before), Run: func(w *world) {
				w.pause(before)
				m := whose.choose(w)
				w.note("it is %s", m.node)
				w.mayWriteLate()
				m.signal(stopSignal)
				w.pause(length)
				m.signal(contSignal)
			}}
		}
	}
	return []kind{
		{Weight: 6, Make: func(r *rand.Rand) step {
			after, length, kills := 1+r.IntN(60), leaseDuration+ordeal.Within(r, leaseDuration), r.IntN(3) == 0
			first := ordeal.Choose(r, slices.Concat(losses(), lists()))
			name := fmt.Sprintf("%s, and no processor for the writer after %d changes for %s", first.Name, after, length)
			if kills {
				name = fmt.Sprintf("%s, and kill -9 of the writer after %d changes", first.Name, after)
			}
			return step{Name: name, Run: func(w *world) { w.hitInTheMiddle(first, after, length, kills) }}
		}},
		{Weight: 4, Make: kill(func(*rand.Rand) who { return theWriter() }, killSignal, "kill -9")},
		{Weight: 2, Make: kill(aFollower, killSignal, "kill -9")},
		{Weight: 1, Make: kill(func(*rand.Rand) who { return theWriter() }, termSignal, "SIGTERM")},
		{Weight: 4, Make: stop(func(*rand.Rand) who { return theWriter() }, leaseDuration, leaseDuration)},
		{Weight: 2, Make: stop(someone, 0, 2*leaseDuration)},
		{Weight: 2, Make: func(r *rand.Rand) step {
			before, after := ordeal.Within(r, 900*time.Millisecond), ordeal.Within(r, 500*time.Millisecond)
			return step{Name: fmt.Sprintf("kill -9 of all after %s, start after %s", before, after), Run: func(w *world) {
				w.pause(before)
				for _, m := range w.members {
					m.end(killSignal)
				}
				w.pause(after)
				for _, m := range w.members {
					m.ensure()
				}
			}}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			pauses := []time.Duration{ordeal.Within(r, 700*time.Millisecond), ordeal.Within(r, 400*time.Millisecond), ordeal.Within(r, 400*time.Millisecond)}
			return step{Name: fmt.Sprintf("kill -9 of the writer three times, after %v", pauses), Run: func(w *world) {
				for _, p := range pauses {
					w.pause(p)
					m := w.writer()
					m.end(killSignal)
					m.ensure()
				}
			}}
		}},
	}
}

// hitInTheMiddle has something happen that makes the writer change the volume, and
// stops it, or kills it, right after so many changes, if it comes to that.
func (w *world) hitInTheMiddle(first step, after int, length time.Duration, kills bool) {
	m := w.writer()
	w.note("it is %s", m.node)
	w.source.Canceled("")
	signal := stopSignal
	if kills {
		signal = killSignal
	}
	p := m.process.Load()
	if p == nil {
		return
	}
	if kills {
		m.ending.Store(p)
	}
	sprung := w.ambush.set(m.number, after, func() {
		m.allow(signal)
		p.Signal(signal)
	})
	first.Run(w)
	late := time.NewTimer(2 * leaseDuration)
	defer late.Stop()
	select {
	case <-sprung:
		w.note("the writer was hit")
		w.mayWriteLate()
		w.pause(length)
	case <-late.C:
	case <-w.failed:
	}
	w.ambush.lift()
	if kills {
		m.end(killSignal)
		m.ensure()
	} else {
		m.signal(contSignal)
	}
}

// mayWriteLate says that who is paused now may write, when it goes on, into the file
// of a transfer that another writer has gone on with: it then shows as a changed file,
// and its label goes until it was hashed again (docs/shared.md, "What is left").
func (w *world) mayWriteLate() {
	for _, sum := range w.source.Open() {
		w.drop(w.sharing(sum)...)
	}
}

// mounts are what happens to the volume on one node, or on all.
func mounts(inner []kind) []kind {
	fault := func(whom func(r *rand.Rand) who, mode weakfs.Mode, most time.Duration) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			whose, length, left, other := whom(r), ordeal.Within(r, most), int64(r.IntN(2))*r.Int64N(4<<20), ordeal.Choose(r, inner)
			with := r.IntN(2) == 0
			name := fmt.Sprintf("the mount of %s is %s for %s", whose.name, mode, length)
			if mode == weakfs.Full {
				name += fmt.Sprintf(" (%d bytes are left)", left)
			}
			if with {
				name += ", " + other.Name
			}
			return step{Name: name, Run: func(w *world) {
				m := whose.choose(w)
				w.note("it is %s", m.node)
				w.source.Canceled("") // pulls may end, begin anew and end again
				w.roomMayBeMade(mode)
				m.fault(mode, left)
				if with {
					other.Run(w)
				}
				w.pause(length)
				m.mend()
			}}
		}
	}
	all := func(mode weakfs.Mode, most time.Duration) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			length, left := ordeal.Within(r, most), int64(r.IntN(2))*r.Int64N(4<<20)
			return step{Name: fmt.Sprintf("the volume is %s for all for %s (%d bytes are left)", mode, length, left), Run: func(w *world) {
				w.source.Canceled("")
				w.roomMayBeMade(mode)
				for _, m := range w.members {
					m.fault(mode, left)
				}
				w.pause(length)
				for _, m := range w.members {
					m.mend()
				}
			}}
		}
	}
	return []kind{
		{Weight: 2, Make: fault(someone, weakfs.Hangs, 8*time.Second)},
		{Weight: 2, Make: fault(someone, weakfs.Stale, 5*time.Second)},
		{Weight: 1, Make: fault(someone, weakfs.ReadOnly, 4*time.Second)},
		{Weight: 1, Make: all(weakfs.ReadOnly, 4*time.Second)},
		{Weight: 2, Make: all(weakfs.Full, 3*time.Second)},
		{Weight: 1, Make: fault(func(*rand.Rand) who { return theWriter() }, weakfs.Full, 3*time.Second)},
		{Weight: 1, Make: all(weakfs.Hangs, 5*time.Second)},
		{Weight: 2, Make: func(r *rand.Rand) step {
			whose, length := someone(r), ordeal.Within(r, 6*time.Second)
			return step{Name: fmt.Sprintf("the volume is unmounted on the node of %s for %s", whose.name, length), Run: func(w *world) {
				m := whose.choose(w)
				w.note("it is %s", m.node)
				if !m.looked() {
					w.note("not done: its agent did not get as far as to look at its volume")
					return
				}
				w.source.Canceled("")
				m.vanish()
				w.pause(length)
				m.mend()
			}}
		}},
	}
}

// looked waits until the agent that runs now has spoken of what its mount shows:
// before that it does not know the volume, and would take any for it.
func (m *member) looked() bool {
	for range 100 {
		if p := m.process.Load(); p != nil && strings.Contains(p.Log(), "said for the first time") {
			return true
		}
		m.pause(50 * time.Millisecond)
	}
	return false
}

// roomMayBeMade says that whoever matters less may have to make room for whoever
// matters more.
func (w *world) roomMayBeMade(mode weakfs.Mode) {
	if mode != weakfs.Full {
		return
	}
	for _, name := range w.names() {
		for _, other := range w.entries {
			if other.on && other.name != "ghost" && other.priority > w.entries[name].priority {
				w.drop(name)
			}
		}
	}
}

// apis are what happens on one agent's way to the API server, or on everybody's,
// while something else happens.
func apis(inner []kind) []kind {
	fault := func(name string, f ordeal.APIFault, least, more time.Duration) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			whose, first, length, everybody := someone(r), ordeal.Choose(r, inner), least+ordeal.Within(r, more), r.IntN(4) == 0
			whom := whose.name
			if everybody {
				whom = "everybody"
			}
			return step{Name: fmt.Sprintf("the API server %s for %s for %s: %s", name, whom, length, first.Name), Run: func(w *world) {
				hit := []*member{whose.choose(w)}
				if everybody {
					hit = w.members
				}
				w.note("it is %s", hit[0].node)
				w.source.Canceled("") // without its Lease the writer ends its pulls
				w.mayWriteLate()
				for _, m := range hit {
					m.api.Set(f)
				}
				first.Run(w)
				w.pause(length)
				for _, m := range hit {
					m.api.Set(ordeal.APIFault{})
					m.exposed()
				}
			}}
		}
	}
	return []kind{
		{Weight: 3, Make: fault("refuses", ordeal.APIFault{Gate: ordeal.GateClosed}, 0, 2*leaseDuration)},
		{Weight: 3, Make: fault("hangs", ordeal.APIFault{Gate: ordeal.GateHangs}, leaseDuration, leaseDuration)},
		{Weight: 2, Make: fault("is slow", ordeal.APIFault{Delay: 700 * time.Millisecond}, 0, leaseDuration)},
		{Weight: 2, Make: fault("answers writes with a conflict", ordeal.APIFault{Status: http.StatusConflict, OnlyWrites: true}, 0, 2*leaseDuration)},
		{Weight: 1, Make: fault("throttles", ordeal.APIFault{Status: http.StatusTooManyRequests}, 0, leaseDuration)},
		{Weight: 1, Make: fault("answers 500", ordeal.APIFault{Status: http.StatusInternalServerError}, 0, leaseDuration)},
		{Weight: 1, Make: fault("forbids writes", ordeal.APIFault{Status: http.StatusForbidden, OnlyWrites: true}, 0, leaseDuration)},
		{Weight: 3, Make: fault("loses the answers to writes", ordeal.APIFault{Lost: true}, 0, 2*leaseDuration)},
	}
}

// hubs are what happens to the Hub, while something else happens.
func hubs(inner []kind) []kind {
	fault := func(name string, begin func(w *world, r *rand.Rand)) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, length := ordeal.Choose(r, inner), ordeal.Within(r, 1200*time.Millisecond)
			mine := rand.New(rand.NewPCG(r.Uint64(), 0))
			return step{Name: fmt.Sprintf("the Hub %s for %s: %s", name, length, first.Name), Run: func(w *world) {
				begin(w, mine)
				first.Run(w)
				w.pause(length)
				w.source.Heal(rate)
			}}
		}
	}
	inject := func(e fetchertest.Effect, k fetchertest.Kind, times int) func(w *world, r *rand.Rand) {
		return func(w *world, _ *rand.Rand) {
			w.source.Killed()
			w.source.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: k}, Times: times, Effect: e})
		}
	}
	return []kind{
		{Weight: 2, Make: fault("refuses", func(w *world, _ *rand.Rand) {
			w.source.Killed()
			w.source.Gate.Set(ordeal.GateClosed)
			w.source.CDNGate.Set(ordeal.GateClosed)
		})},
		{Weight: 1, Make: fault("hangs", func(w *world, _ *rand.Rand) {
			w.source.Gate.Set(ordeal.GateHangs)
			w.source.CDNGate.Set(ordeal.GateHangs)
		})},
		{Weight: 1, Make: fault("answers 503", inject(fetchertest.Status(http.StatusServiceUnavailable), "", 0))},
		{Weight: 1, Make: fault("throttles", inject(fetchertest.RateLimited("api", time.Second), "", 3))},
		{Weight: 1, Make: fault("crawls", func(w *world, _ *rand.Rand) { w.source.Hub.SetBytesPerSecond(1 << 20) })},
		{Weight: 2, Make: fault("cuts transfers", func(w *world, r *rand.Rand) {
			inject(fetchertest.CutAfter(r.Int64N(4<<20)), fetchertest.KindCDN, 1+r.IntN(5))(w, r)
		})},
		{Weight: 2, Make: fault("sends a wrong byte", func(w *world, r *rand.Rand) { w.source.Spoil(r.Int64N(8 << 20)) })},
	}
}

// lists are what happens to the model list and to revisions.
func lists() []kind {
	change := func(name string, do func(w *world)) step {
		return step{Name: name, Run: func(w *world) {
			do(w)
			w.writeList()
		}}
	}
	return []kind{
		{Weight: 4, Make: func(r *rand.Rand) step {
			name := ordeal.OneOf(r, "tiny", "mid", "large", "moving", "shared", "other")
			return change("list: "+name+" is added or removed", func(w *world) {
				w.drop(name)
				w.edit(name, func(e *entry) { e.on = !e.on })
			})
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			name, to := ordeal.OneOf(r, "tiny", "mid", "shared"), ordeal.OneOf(r, everyNode, firstNode, noNode)
			return change(fmt.Sprintf("list: the selector of %s is %d", name, to), func(w *world) {
				w.drop(name)
				w.edit(name, func(e *entry) { e.selector = to })
			})
		}},
		{Weight: 3, Make: func(r *rand.Rand) step {
			at := r.IntN(2)
			// The label stays: the old revision is warm until the new one is.
			return change(fmt.Sprintf("list: mid is pinned to its commit %d", at), func(w *world) {
				w.edit("mid", func(e *entry) { e.commit = w.commits["mid"][at] })
			})
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			to := ordeal.OneOf(r, sharedRepo, otherRepo)
			return change("list: other comes from "+to, func(w *world) {
				if w.entries["other"].repo != to {
					w.drop("other")
				}
				w.edit("other", func(e *entry) { e.repo, e.commit = to, w.source.Head(to) })
			})
		}},
		{Weight: 3, Make: func(*rand.Rand) step {
			return step{Name: "the Hub has a new commit of moving", Run: func(w *world) { w.publishMoving() }}
		}},
	}
}
