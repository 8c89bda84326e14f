package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

type (
	step = ordeal.Step[*world]
	kind = ordeal.Kind[*world]
)

// lives are what happens to the agent's process.
func lives() []kind {
	return []kind{
		{Weight: 4, Make: func(r *rand.Rand) step {
			before, after := ordeal.Within(r, 900*time.Millisecond), ordeal.Within(r, 300*time.Millisecond)
			return step{Name: fmt.Sprintf("kill -9 after %s, start after %s", before, after), Run: func(w *world) {
				w.pause(before)
				w.endAgent(killSignal)
				w.pause(after)
				w.ensureAgent()
			}}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			pauses := []time.Duration{ordeal.Within(r, 700*time.Millisecond), ordeal.Within(r, 400*time.Millisecond), ordeal.Within(r, 400*time.Millisecond)}
			return step{Name: fmt.Sprintf("kill -9 three times, after %v", pauses), Run: func(w *world) {
				for _, p := range pauses {
					w.pause(p)
					w.endAgent(killSignal)
					w.ensureAgent()
				}
			}}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			before := ordeal.Within(r, 700*time.Millisecond)
			return step{Name: fmt.Sprintf("SIGTERM after %s, and start", before), Run: func(w *world) {
				w.pause(before)
				w.endAgent(termSignal)
				w.ensureAgent()
			}}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			before, length := ordeal.Within(r, 500*time.Millisecond), ordeal.Within(r, 1500*time.Millisecond)
			return step{Name: fmt.Sprintf("no processor for %s after %s", length, before), Run: func(w *world) {
				w.pause(before)
				w.signalAgent(stopSignal)
				w.pause(length)
				w.signalAgent(contSignal)
				w.exposed()
			}}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			d := ordeal.OneOf(r, -48*time.Hour, -time.Hour, -time.Second, time.Second, time.Hour, 48*time.Hour)
			return step{Name: fmt.Sprintf("restart with the clock moved by %s", d), Run: func(w *world) { w.moveClock(d) }}
		}},
	}
}

// disks are what happens to the disk as a whole.
func disks() []kind {
	return []kind{
		{Weight: 4, Make: func(r *rand.Rand) step {
			before := ordeal.Within(r, 1200*time.Millisecond)
			return step{Name: fmt.Sprintf("power cut after %s", before), Run: func(w *world) {
				w.pause(before)
				w.powerCut()
			}}
		}},
		{Weight: 3, Make: func(r *rand.Rand) step {
			leave, length, kill := int64(r.IntN(3))*r.Int64N(2<<20), 200*time.Millisecond+ordeal.Within(r, time.Second), r.IntN(3) == 0
			return step{Name: fmt.Sprintf("no space but %d bytes for %s, kill -9 in it: %t", leave, length, kill), Run: func(w *world) {
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
		{Weight: 1, Make: func(r *rand.Rand) step {
			length, kill := ordeal.Within(r, 1500*time.Millisecond), r.IntN(2) == 0
			return step{Name: fmt.Sprintf("read-only for %s, kill -9 in it: %t", length, kill), Run: func(w *world) {
				if w.readOnly(); kill {
					w.endAgent(killSignal)
					w.ensureAgent()
				}
				w.pause(length)
				w.writable()
			}}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			length := ordeal.Within(r, 3*time.Second)
			return step{Name: fmt.Sprintf("the disk gives EIO for %s", length), Run: func(w *world) { w.deadDisk(length) }}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			length := ordeal.Within(r, 3*time.Second)
			return step{Name: fmt.Sprintf("the volume is gone for %s", length), Run: func(w *world) { w.hideDisk(length) }}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			length := ordeal.Within(r, 2*time.Second)
			return step{Name: fmt.Sprintf("writes hang for %s", length), Run: func(w *world) {
				w.must("freeze", w.disk.freeze())
				w.pause(length)
				// A connection that cannot write is relieved of what it has received.
				w.source.Killed()
				w.must("thaw", w.disk.thaw())
				w.exposed()
			}}
		}},
	}
}

// apis are what happens on the way to the API server, while something else
// happens.
func apis(inner []kind) []kind {
	fault := func(name string, f ordeal.APIFault) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, second, length := ordeal.Choose(r, inner), ordeal.Choose(r, lives()), ordeal.Within(r, 1200*time.Millisecond)
			kill := r.IntN(3) == 0
			if kill {
				name += ", " + second.Name
			}
			return step{Name: fmt.Sprintf("API server %s for %s: %s", name, length, first.Name), Run: func(w *world) {
				w.api.Set(f)
				first.Run(w)
				if kill {
					second.Run(w)
				}
				w.pause(length)
				w.api.Set(ordeal.APIFault{})
				w.exposed()
			}}
		}
	}
	return []kind{
		{Weight: 2, Make: fault("refuses", ordeal.APIFault{Gate: ordeal.GateClosed})},
		{Weight: 2, Make: fault("hangs", ordeal.APIFault{Gate: ordeal.GateHangs})},
		{Weight: 2, Make: fault("is slow", ordeal.APIFault{Delay: 700 * time.Millisecond})},
		{Weight: 1, Make: fault("is slower than the timeout", ordeal.APIFault{Delay: 2500 * time.Millisecond})},
		{Weight: 2, Make: fault("answers writes with a conflict", ordeal.APIFault{Status: http.StatusConflict, OnlyWrites: true})},
		{Weight: 1, Make: fault("throttles", ordeal.APIFault{Status: http.StatusTooManyRequests})},
		{Weight: 1, Make: fault("answers 500", ordeal.APIFault{Status: http.StatusInternalServerError})},
		{Weight: 1, Make: fault("forbids writes", ordeal.APIFault{Status: http.StatusForbidden, OnlyWrites: true})},
		{Weight: 2, Make: fault("loses the answers to writes", ordeal.APIFault{Lost: true})},
	}
}

// hubs are what happens to the Hub, while something else happens.
func hubs(inner []kind) []kind {
	fault := func(name string, begin func(w *world, r *rand.Rand) func()) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, length := ordeal.Choose(r, inner), ordeal.Within(r, 1200*time.Millisecond)
			mine := rand.New(rand.NewPCG(r.Uint64(), 0))
			return step{Name: fmt.Sprintf("the Hub %s for %s: %s", name, length, first.Name), Run: func(w *world) {
				begin(w, mine)()
				first.Run(w)
				w.pause(length)
				w.source.Heal(rate)
			}}
		}
	}
	inject := func(e fetchertest.Effect, k fetchertest.Kind, times int) func(w *world, r *rand.Rand) func() {
		return func(w *world, _ *rand.Rand) func() {
			return func() {
				w.source.Killed()
				w.source.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: k}, Times: times, Effect: e})
			}
		}
	}
	return []kind{
		{Weight: 2, Make: fault("refuses", func(w *world, _ *rand.Rand) func() {
			return func() {
				w.source.Killed()
				w.source.Gate.Set(ordeal.GateClosed)
				w.source.CDNGate.Set(ordeal.GateClosed)
			}
		})},
		{Weight: 1, Make: fault("hangs", func(w *world, _ *rand.Rand) func() {
			return func() {
				w.source.Gate.Set(ordeal.GateHangs)
				w.source.CDNGate.Set(ordeal.GateHangs)
			}
		})},
		{Weight: 1, Make: fault("answers 503", inject(fetchertest.Status(http.StatusServiceUnavailable), "", 0))},
		{Weight: 1, Make: fault("throttles", inject(fetchertest.RateLimited("api", time.Second), "", 3))},
		{Weight: 1, Make: fault("crawls", func(w *world, _ *rand.Rand) func() { return func() { w.source.Hub.SetBytesPerSecond(1 << 20) } })},
		{Weight: 2, Make: fault("cuts transfers", func(w *world, r *rand.Rand) func() {
			return inject(fetchertest.CutAfter(r.Int64N(4<<20)), fetchertest.KindCDN, 1+r.IntN(5))(w, r)
		})},
		{Weight: 1, Make: fault("refuses its own signatures", inject(fetchertest.ExpiredSignature(), fetchertest.KindCDN, 3))},
		{Weight: 2, Make: fault("sends a wrong byte", func(w *world, r *rand.Rand) func() {
			at := r.Int64N(8 << 20)
			return func() { w.source.Spoil(at) }
		})},
	}
}

// lists are what happens to the model list, to pods and to revisions.
func lists() []kind {
	change := func(name string, do func(w *world)) step {
		return step{Name: name, Run: func(w *world) {
			do(w)
			w.writeList()
		}}
	}
	return []kind{
		{Weight: 3, Make: func(r *rand.Rand) step {
			name := ordeal.OneOf(r, "tiny", "mid", "large", "moving", "shared", "other")
			return change("list: "+name+" is added or removed", func(w *world) {
				w.drop(name)
				w.edit(name, func(e *entry) { e.on = !e.on })
			})
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			name, to := ordeal.OneOf(r, "tiny", "mid", "shared"), ordeal.OneOf(r, everyNode, thisNode, otherNodes)
			return change(fmt.Sprintf("list: the selector of %s is %d", name, to), func(w *world) {
				w.drop(name)
				w.edit(name, func(e *entry) { e.selector = to })
			})
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
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
		{Weight: 1, Make: func(r *rand.Rand) step {
			name, to := ordeal.OneOf(r, "tiny", "mid", "large"), r.IntN(5)-2
			return change(fmt.Sprintf("list: the priority of %s is %d", name, to), func(w *world) {
				w.edit(name, func(e *entry) { e.priority = to })
			})
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			text := ordeal.OneOf(r, "", "models:", "models: [", "models: [{name: Bad!}]", "\x00", "models: []\nmodels: []", "null")
			return step{Name: fmt.Sprintf("list: is %q", text), Run: func(w *world) {
				w.nonsense.Store(true)
				w.writeConfig(text)
			}}
		}},
		{Weight: 2, Make: func(*rand.Rand) step {
			return step{Name: "the Hub has a new commit of moving", Run: func(w *world) { w.publishMoving() }}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			name := ordeal.OneOf(r, "tiny", "mid", "large")
			return step{Name: "somebody removes the labels of " + name, Run: func(w *world) { w.tamper(name) }}
		}},
		{Weight: 2, Make: func(*rand.Rand) step {
			return step{Name: "a pod names picky, or does so no longer", Run: func(w *world) { w.togglePod("picky") }}
		}},
	}
}
