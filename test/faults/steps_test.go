package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// step is one thing that happens to the world. What it does is chosen when it
// is made, from the seed alone, so that a walk can be taken again.
type step struct {
	name string
	run  func(w *world)
}

// kind makes steps of a kind.
type kind struct {
	weight int
	make   func(r *rand.Rand) step
}

// choose makes a step of one of the kinds.
func choose(r *rand.Rand, kinds []kind) step {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := r.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.make(r)
		}
	}
	panic("no kind was chosen")
}

// oneOf chooses among values.
func oneOf[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// within is a random part of d, in milliseconds.
func within(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(d/time.Millisecond)+1)) * time.Millisecond
}

// lives are what happens to the agent's process.
func lives() []kind {
	return []kind{
		{4, func(r *rand.Rand) step {
			before, after := within(r, 900*time.Millisecond), within(r, 300*time.Millisecond)
			return step{fmt.Sprintf("kill -9 after %s, start after %s", before, after), func(w *world) {
				w.pause(before)
				w.endAgent(killSignal)
				w.pause(after)
				w.ensureAgent()
			}}
		}},
		{2, func(r *rand.Rand) step {
			pauses := []time.Duration{within(r, 700*time.Millisecond), within(r, 400*time.Millisecond), within(r, 400*time.Millisecond)}
			return step{fmt.Sprintf("kill -9 three times, after %v", pauses), func(w *world) {
				for _, p := range pauses {
					w.pause(p)
					w.endAgent(killSignal)
					w.ensureAgent()
				}
			}}
		}},
		{2, func(r *rand.Rand) step {
			before := within(r, 700*time.Millisecond)
			return step{fmt.Sprintf("SIGTERM after %s, and start", before), func(w *world) {
				w.pause(before)
				w.endAgent(termSignal)
				w.ensureAgent()
			}}
		}},
		{1, func(r *rand.Rand) step {
			before, length := within(r, 500*time.Millisecond), within(r, 1500*time.Millisecond)
			return step{fmt.Sprintf("no processor for %s after %s", length, before), func(w *world) {
				w.pause(before)
				w.signalAgent(stopSignal)
				w.pause(length)
				w.signalAgent(contSignal)
				w.exposed()
			}}
		}},
		{1, func(r *rand.Rand) step {
			d := oneOf(r, -48*time.Hour, -time.Hour, -time.Second, time.Second, time.Hour, 48*time.Hour)
			return step{fmt.Sprintf("restart with the clock moved by %s", d), func(w *world) { w.moveClock(d) }}
		}},
	}
}

// disks are what happens to the disk as a whole.
func disks() []kind {
	return []kind{
		{4, func(r *rand.Rand) step {
			before := within(r, 1200*time.Millisecond)
			return step{fmt.Sprintf("power cut after %s", before), func(w *world) {
				w.pause(before)
				w.powerCut()
			}}
		}},
		{3, func(r *rand.Rand) step {
			leave, length, kill := int64(r.IntN(3))*r.Int64N(2<<20), 200*time.Millisecond+within(r, time.Second), r.IntN(3) == 0
			return step{fmt.Sprintf("no space but %d bytes for %s, kill -9 in it: %t", leave, length, kill), func(w *world) {
				w.fillDisk(leave)
				w.pause(length)
				if kill {
					w.endAgent(killSignal)
					w.ensureAgent()
					w.pause(length)
				}
				w.freeDisk()
			}}
		}},
		{1, func(r *rand.Rand) step {
			length, kill := within(r, 1500*time.Millisecond), r.IntN(2) == 0
			return step{fmt.Sprintf("read-only for %s, kill -9 in it: %t", length, kill), func(w *world) {
				if w.readOnly(); kill {
					w.endAgent(killSignal)
					w.ensureAgent()
				}
				w.pause(length)
				w.writable()
			}}
		}},
		{1, func(r *rand.Rand) step {
			length := within(r, 3*time.Second)
			return step{fmt.Sprintf("the disk gives EIO for %s", length), func(w *world) { w.deadDisk(length) }}
		}},
		{1, func(r *rand.Rand) step {
			length := within(r, 3*time.Second)
			return step{fmt.Sprintf("the volume is gone for %s", length), func(w *world) { w.hideDisk(length) }}
		}},
		{1, func(r *rand.Rand) step {
			length := within(r, 2*time.Second)
			return step{fmt.Sprintf("writes hang for %s", length), func(w *world) {
				w.must("freeze", w.disk.freeze())
				w.pause(length)
				// A connection that cannot write is relieved of what it has received.
				w.source.killed()
				w.must("thaw", w.disk.thaw())
				w.exposed()
			}}
		}},
	}
}

// apis are what happens on the way to the API server, while something else
// happens.
func apis(inner []kind) []kind {
	fault := func(name string, f apiFault) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, second, length := choose(r, inner), choose(r, lives()), within(r, 1200*time.Millisecond)
			kill := r.IntN(3) == 0
			if kill {
				name += ", " + second.name
			}
			return step{fmt.Sprintf("API server %s for %s: %s", name, length, first.name), func(w *world) {
				w.api.set(f)
				first.run(w)
				if kill {
					second.run(w)
				}
				w.pause(length)
				w.api.set(apiFault{})
				w.exposed()
			}}
		}
	}
	return []kind{
		{2, fault("refuses", apiFault{gate: gateClosed})},
		{2, fault("hangs", apiFault{gate: gateHangs})},
		{2, fault("is slow", apiFault{delay: 700 * time.Millisecond})},
		{1, fault("is slower than the timeout", apiFault{delay: 2500 * time.Millisecond})},
		{2, fault("answers writes with a conflict", apiFault{status: http.StatusConflict, onlyWrites: true})},
		{1, fault("throttles", apiFault{status: http.StatusTooManyRequests})},
		{1, fault("answers 500", apiFault{status: http.StatusInternalServerError})},
		{1, fault("forbids writes", apiFault{status: http.StatusForbidden, onlyWrites: true})},
		{2, fault("loses the answers to writes", apiFault{lost: true})},
	}
}

// hubs are what happens to the Hub, while something else happens.
func hubs(inner []kind) []kind {
	fault := func(name string, begin func(w *world, r *rand.Rand) func()) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, length := choose(r, inner), within(r, 1200*time.Millisecond)
			mine := rand.New(rand.NewPCG(r.Uint64(), 0))
			return step{fmt.Sprintf("the Hub %s for %s: %s", name, length, first.name), func(w *world) {
				begin(w, mine)()
				first.run(w)
				w.pause(length)
				w.source.heal(rate)
			}}
		}
	}
	inject := func(e fetchertest.Effect, k fetchertest.Kind, times int) func(w *world, r *rand.Rand) func() {
		return func(w *world, _ *rand.Rand) func() {
			return func() {
				w.source.killed()
				w.source.inject(fetchertest.Fault{Match: fetchertest.Match{Kind: k}, Times: times, Effect: e})
			}
		}
	}
	return []kind{
		{2, fault("refuses", func(w *world, _ *rand.Rand) func() {
			return func() {
				w.source.killed()
				w.source.gate.set(gateClosed)
				w.source.cdnGate.set(gateClosed)
			}
		})},
		{1, fault("hangs", func(w *world, _ *rand.Rand) func() {
			return func() {
				w.source.gate.set(gateHangs)
				w.source.cdnGate.set(gateHangs)
			}
		})},
		{1, fault("answers 503", inject(fetchertest.Status(http.StatusServiceUnavailable), "", 0))},
		{1, fault("throttles", inject(fetchertest.RateLimited("api", time.Second), "", 3))},
		{1, fault("crawls", func(w *world, _ *rand.Rand) func() { return func() { w.source.hub.SetBytesPerSecond(1 << 20) } })},
		{2, fault("cuts transfers", func(w *world, r *rand.Rand) func() {
			return inject(fetchertest.CutAfter(r.Int64N(4<<20)), fetchertest.KindCDN, 1+r.IntN(5))(w, r)
		})},
		{1, fault("refuses its own signatures", inject(fetchertest.ExpiredSignature(), fetchertest.KindCDN, 3))},
		{2, fault("sends a wrong byte", func(w *world, r *rand.Rand) func() {
			at := r.Int64N(8 << 20)
			return func() { w.source.spoil(at) }
		})},
	}
}

// lists are what happens to the model list, to pods and to revisions.
func lists() []kind {
	change := func(name string, do func(w *world)) step {
		return step{name, func(w *world) {
			do(w)
			w.writeList()
		}}
	}
	return []kind{
		{3, func(r *rand.Rand) step {
			name := oneOf(r, "tiny", "mid", "large", "moving", "shared", "other")
			return change("list: "+name+" is added or removed", func(w *world) {
				w.drop(name)
				w.edit(name, func(e *entry) { e.on = !e.on })
			})
		}},
		{1, func(r *rand.Rand) step {
			name, to := oneOf(r, "tiny", "mid", "shared"), oneOf(r, everyNode, thisNode, otherNodes)
			return change(fmt.Sprintf("list: the selector of %s is %d", name, to), func(w *world) {
				w.drop(name)
				w.edit(name, func(e *entry) { e.selector = to })
			})
		}},
		{2, func(r *rand.Rand) step {
			at := r.IntN(2)
			// The label stays: the old revision is warm until the new one is.
			return change(fmt.Sprintf("list: mid is pinned to its commit %d", at), func(w *world) {
				w.edit("mid", func(e *entry) { e.commit = w.commits["mid"][at] })
			})
		}},
		{1, func(r *rand.Rand) step {
			to := oneOf(r, sharedRepo, otherRepo)
			return change("list: other comes from "+to, func(w *world) {
				if w.entries["other"].repo != to {
					w.drop("other")
				}
				w.edit("other", func(e *entry) { e.repo, e.commit = to, w.source.head(to) })
			})
		}},
		{1, func(r *rand.Rand) step {
			name, to := oneOf(r, "tiny", "mid", "large"), r.IntN(5)-2
			return change(fmt.Sprintf("list: the priority of %s is %d", name, to), func(w *world) {
				w.edit(name, func(e *entry) { e.priority = to })
			})
		}},
		{2, func(r *rand.Rand) step {
			text := oneOf(r, "", "models:", "models: [", "models: [{name: Bad!}]", "\x00", "models: []\nmodels: []", "null")
			return step{fmt.Sprintf("list: is %q", text), func(w *world) {
				w.nonsense.Store(true)
				w.writeConfig(text)
			}}
		}},
		{2, func(*rand.Rand) step {
			return step{"the Hub has a new commit of moving", func(w *world) { w.publishMoving() }}
		}},
		{1, func(r *rand.Rand) step {
			name := oneOf(r, "tiny", "mid", "large")
			return step{"somebody removes the labels of " + name, func(w *world) { w.tamper(name) }}
		}},
		{2, func(*rand.Rand) step {
			return step{"a pod names picky, or does so no longer", func(w *world) { w.togglePod("picky") }}
		}},
	}
}
