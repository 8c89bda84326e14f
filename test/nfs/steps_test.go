//go:build e2e && linux

package nfs_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/machine"
	"github.com/stoker-project/stoker/test/ordeal"
)

// kinds is the mix of what happens.
func kinds() []kind {
	inner := slices.Concat(damages(), lists())
	return slices.Concat(
		ordeal.Weighted(3, lives()), ordeal.Weighted(4, machines(inner)), ordeal.Weighted(4, servers(inner)),
		ordeal.Weighted(2, damages()), ordeal.Weighted(2, lists()), ordeal.Weighted(1, apis(inner)),
	)
}

// who chooses a member when a step is taken.
type who struct {
	name   string
	choose func(w *walk) *member
}

// someone is the writer or, by a number that the seed decides, another one.
func someone(r *rand.Rand) who {
	if r.IntN(3) > 0 {
		return who{"the writer", func(w *walk) *member { return w.writerNow() }}
	}
	n := r.IntN(64)
	return who{fmt.Sprintf("follower %d", n), func(w *walk) *member {
		others := w.others(w.writerNow())
		return others[n%len(others)]
	}}
}

// someoneStep makes a step of what happens to a member.
func someoneStep(r *rand.Rand, what string, do func(w *walk, m *member)) step {
	whom := someone(r)
	return step{Name: whom.name + " " + what, Run: func(w *walk) {
		m := whom.choose(w)
		w.note("it is %s", m.node)
		do(w, m)
	}}
}

// lives are what happens to agents.
func lives() []kind {
	end := func(signal syscall.Signal) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			before, after := ordeal.Within(r, time.Second), ordeal.Within(r, leaseDuration)
			return someoneStep(r, fmt.Sprintf("gets %s after %s, start after %s", signal, before, after), func(w *walk, m *member) {
				w.pass(before)
				m.end(signal)
				w.pass(after)
				m.start()
			})
		}
	}
	return []kind{
		{Weight: 4, Make: end(syscall.SIGKILL)},
		{Weight: 2, Make: end(syscall.SIGTERM)},
		{Weight: 3, Make: func(r *rand.Rand) step {
			length := ordeal.Within(r, 2*leaseDuration)
			return someoneStep(r, fmt.Sprintf("gets no processor for %s", length), func(w *walk, m *member) {
				m.signal(syscall.SIGSTOP)
				w.pass(length)
				m.signal(syscall.SIGCONT)
			})
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			after := ordeal.Within(r, time.Second)
			return step{Name: fmt.Sprintf("kill -9 of all agents, start after %s", after), Run: func(w *walk) {
				for _, m := range w.members {
					m.end(syscall.SIGKILL)
				}
				w.pass(after)
				for _, m := range w.members {
					m.start()
				}
			}}
		}},
	}
}

// having are the models that have a content in some commit.
func (w *walk) having(sha256 string) []string {
	var out []string
	for _, commit := range w.source.CommitsWith(sha256) {
		out = append(out, strings.TrimPrefix(w.source.RepoOf(commit), "org/"))
	}
	return out
}

// machines are what happens to a machine while something else does.
func machines(inner []kind) []kind {
	away := func(what string, begin, end func(m *member)) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, other := ordeal.Choose(r, slices.Concat(losses(), lists())), ordeal.Choose(r, inner)
			before, length := ordeal.Within(r, 3*time.Second), ordeal.Within(r, 3*leaseDuration)
			return someoneStep(r, fmt.Sprintf("is %s %s after (%s) for %s, with (%s)", what, before, first.Name, length, other.Name), func(w *walk, m *member) {
				first.Run(w)
				w.pass(before)
				w.mayHang()
				begin(m)
				other.Run(w)
				w.pass(length)
				end(m)
			})
		}
	}
	return []kind{
		{Weight: 3, Make: away("cut off", (*member).cut, (*member).connect)},
		{Weight: 3, Make: away("paused", (*member).freeze, (*member).thaw)},
		{Weight: 3, Make: away("without power", (*member).powerOff, (*member).powerOn)},
		{Weight: 1, Make: func(r *rand.Rand) step {
			return someoneStep(r, "drops its caches", func(w *walk, m *member) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				w.must("drop caches", m.machine.DropCaches(ctx))
			})
		}},
	}
}

// mayHang allows labels to go everywhere: the file server waits for a machine that is away, for as long as its lease, if
// it has a delegation of a file, and whoever looks at that file waits for the server.
func (w *walk) mayHang() {
	for _, m := range w.members {
		m.loose.Store(true)
	}
}

// servers are what happens to the file server.
func servers(inner []kind) []kind {
	return []kind{
		{Weight: 3, Make: func(r *rand.Rand) step {
			first, before, length, forget := ordeal.Choose(r, slices.Concat(losses(), lists())), ordeal.Within(r, 3*time.Second), ordeal.Within(r, 8*time.Second), r.IntN(2) == 0
			return step{Name: fmt.Sprintf("the server has no power %s after (%s) for %s, forgets its clients %t", before, first.Name, length, forget), Run: func(w *walk) {
				first.Run(w)
				w.pass(before)
				w.killServer()
				w.pass(length)
				w.startServer(forget)
			}}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			left, length, first := int64(r.IntN(2))*r.Int64N(8<<20), ordeal.Within(r, 6*time.Second), ordeal.Choose(r, slices.Concat(losses(), lists()))
			return step{Name: fmt.Sprintf("the disk has %d bytes left for %s: %s", left, length, first.Name), Run: func(w *walk) {
				w.serverRun(fmt.Sprintf("free=$(( $(stat -f -c '%%a*%%S' .) - %d )); [ $free -le 0 ] || fallocate -l $free ../../fill || dd if=/dev/zero of=../../fill bs=64k 2>/dev/null; sync", left))
				first.Run(w)
				w.pass(length)
				w.serverRun("rm -f ../../fill; sync")
			}}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			length, first := ordeal.Within(r, 6*time.Second), ordeal.Choose(r, inner)
			return step{Name: fmt.Sprintf("the export is read-only for %s: %s", length, first.Name), Run: func(w *walk) {
				w.reexport("ro,no_root_squash")
				first.Run(w)
				w.pass(length)
				w.reexport("")
			}}
		}},
		{Weight: 1, Make: func(r *rand.Rand) step {
			length := ordeal.Within(r, 6*time.Second)
			return step{Name: fmt.Sprintf("nothing is exported for %s", length), Run: func(w *walk) {
				w.mayHang()
				for _, m := range w.members {
					m.view.close()
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				w.must("end the export", w.fileServer.Unexport(ctx))
				w.pass(length)
				w.reexport("")
				for _, m := range w.members {
					m.view.open()
					m.restartCount()
				}
			}}
		}},
	}
}

func (w *walk) reexport(options string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.must("export again", w.fileServer.Reexport(ctx, options))
}

// serverRun runs a script on the server, in the store's folder.
func (w *walk) serverRun(script string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	result, err := w.fileServer.Run(ctx, "cd "+machine.ExportDir+strings.TrimPrefix(fleetStore, mountPoint)+" && { "+script+"; }")
	w.must("run a script on the server", err)
	if result.ExitCode != 0 {
		w.note("not done: %s", result.Output)
	}
}

// mutation breaks a file of a model by a script that runs in the store's folder on the server.
type mutation struct {
	name, script string
	// blob: it hits all models that share the content; rot: only reading shows it.
	blob, rot bool
}

// mutations have $BLOB, $LINK, $MANIFEST and $RECORD.
func mutations() []mutation {
	return []mutation{
		{name: "the blob is deleted", blob: true, script: `rm "$BLOB"`},
		{name: "the blob is cut in half", blob: true, script: `truncate -s $(( $(stat -c %s "$BLOB") / 2 )) "$BLOB"`},
		{name: "the blob is longer", blob: true, script: `[ -e "$BLOB" ] && echo more >> "$BLOB"`},
		{name: "bytes of the blob are overwritten", blob: true, script: `[ -e "$BLOB" ] && printf XYZ | dd of="$BLOB" bs=1 seek=$(( $(stat -c %s "$BLOB") / 2 )) conv=notrunc 2>/dev/null`},
		{name: "bytes of the blob rot", blob: true, rot: true, script: `[ -e "$BLOB" ] && touch -r "$BLOB" ../../time && printf XYZ | dd of="$BLOB" bs=1 seek=$(( $(stat -c %s "$BLOB") / 2 )) conv=notrunc 2>/dev/null && touch -r ../../time "$BLOB"`},
		{name: "the blob is replaced by one of its size", blob: true, script: `head -c $(stat -c %s "$BLOB") /dev/zero > ../../other && mv ../../other "$BLOB"`},
		{name: "the record is deleted", blob: true, script: `rm "$RECORD"`},
		{name: "the link is deleted", script: `rm "$LINK"`},
		{name: "the link leads elsewhere", script: `[ -L "$LINK" ] && ln -sfn /etc/passwd "$LINK"`},
		{name: "the manifest is deleted", script: `rm "$MANIFEST"`},
		{name: "the manifest is empty", script: `[ -e "$MANIFEST" ] && : > "$MANIFEST"`},
	}
}

// damages are what happens to files behind everybody's back.
func damages() []kind {
	return []kind{{Weight: 1, Make: func(r *rand.Rand) step {
		what, name, share := ordeal.OneOf(r, mutations()...), ordeal.OneOf(r, "tiny", "mid", "large", "moving"), r.Float64()
		return step{Name: fmt.Sprintf("%s: %s (file at %.2f)", name, what.name, share), Run: func(w *walk) { w.mutate(what, name, share) }}
	}}}
}

func (w *walk) mutate(what mutation, name string, share float64) {
	v := w.source.VictimOf(".", name, w.commitOf(name), share)
	hit := []string{name}
	if what.blob {
		hit = w.having(v.SHA256)
	}
	if what.rot {
		w.allowances.rot(hit...)
	} else {
		w.allowances.damage(hit...)
	}
	w.note("%s of %s", v.Path, v.Commit)
	w.serverRun(fmt.Sprintf("BLOB='%s' LINK='%s' MANIFEST='%s' RECORD='agent/verified/%s.json'; %s", v.Blob, v.Link, v.Manifest, v.SHA256, what.script))
}

// losses make something large be pulled, so that what happens next lands in a transfer.
func losses() []kind {
	return []kind{{Weight: 4, Make: func(r *rand.Rand) step {
		name := ordeal.OneOf(r, "large", "large", "mid")
		return step{Name: name + ": its blobs are deleted", Run: func(w *walk) {
			var blobs []string
			files := w.source.Files(w.commitOf(name))
			for _, path := range slices.Sorted(maps.Keys(files)) {
				w.allowances.damage(w.having(files[path].SHA256)...)
				blobs = append(blobs, "blobs/sha256/"+files[path].SHA256)
			}
			w.serverRun("rm -f " + strings.Join(blobs, " "))
		}}
	}}}
}

// lists are what happens to the model list and to revisions.
func lists() []kind {
	return []kind{
		{Weight: 4, Make: func(r *rand.Rand) step {
			name := ordeal.OneOf(r, "tiny", "mid", "large", "moving")
			return step{Name: "list: " + name + " is added or removed", Run: func(w *walk) {
				w.allowances.drop(name)
				w.list(!w.entries[name].on, name)
			}}
		}},
		{Weight: 2, Make: func(r *rand.Rand) step {
			at := r.IntN(2)
			return step{Name: fmt.Sprintf("list: mid is pinned to its commit %d", at), Run: func(w *walk) {
				e := w.entries["mid"]
				e.commit = w.commits["mid"][at]
				w.entries["mid"] = e
				w.writeList()
			}}
		}},
		{Weight: 2, Make: func(*rand.Rand) step {
			return step{Name: "the Hub has a new commit of moving", Run: func(w *walk) {
				w.pushed++
				w.push("org/moving", 100+w.pushed, 4<<20, 1)
			}}
		}},
	}
}

// apis are what happens on a Node's way to the API server, or on everybody's, while something else happens.
func apis(inner []kind) []kind {
	fault := func(name string, f ordeal.APIFault) func(r *rand.Rand) step {
		return func(r *rand.Rand) step {
			first, length, everybody := ordeal.Choose(r, inner), ordeal.Within(r, 2*leaseDuration), r.IntN(4) == 0
			return someoneStep(r, fmt.Sprintf("finds that the API server %s for %s, as all do %t: %s", name, length, everybody, first.Name), func(w *walk, m *member) {
				hit := []*member{m}
				if everybody {
					hit = w.members
				}
				for _, m := range hit {
					m.api.Set(f)
				}
				first.Run(w)
				w.pass(length)
				for _, m := range hit {
					m.api.Set(ordeal.APIFault{})
					m.restartCount()
				}
			})
		}
	}
	return []kind{
		{Weight: 2, Make: fault("refuses", ordeal.APIFault{Gate: ordeal.GateClosed})},
		{Weight: 2, Make: fault("hangs", ordeal.APIFault{Gate: ordeal.GateHangs})},
		{Weight: 1, Make: fault("answers 500", ordeal.APIFault{Status: http.StatusInternalServerError})},
		{Weight: 1, Make: fault("loses answers to writes", ordeal.APIFault{Lost: true})},
	}
}
