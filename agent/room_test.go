package agent

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/fetcher/store"
)

// crowd is a node whose disk holds models of 10 bytes each, and on which a
// model that needs 10 more was refused.
type crowd struct {
	facts
	wants Model
}

// held puts a model of 10 bytes into the store, as one that the list wants at
// that priority; used says how long ago a pod last named it.
func (c *crowd) held(t *testing.T, name string, priority int, used time.Duration) *crowd {
	t.Helper()
	m := entry(t, name)
	m.Priority = priority
	c.List = append(c.List, m)
	have := published(m, nil)
	have.Manifest.Files = []store.ManifestFile{{Path: "model.safetensors", Size: 10, SHA256: name}}
	c.Store.Value.Models[name] = have
	c.Store.Value.Usage.StoreBytes += 10
	c.Store.Value.Usage.FreeBytes -= 10
	c.Memory[name] = record{Managed: true, LastUsed: noon.Add(-used), Transfer: m.transfer(), PulledRevision: commit}
	return c
}

// full is a disk of 100 bytes of which 20 stay free, and a model of priority 5
// for which there were need bytes too few.
func full(t *testing.T, need int64) *crowd {
	t.Helper()
	wants := entry(t, "x")
	wants.Priority = 5
	c := &crowd{facts: world(wants), wants: wants}
	c.Limits = StoreConfig{Reserve: Share{Percent: 20}}
	c.Store.Value.Usage = store.Usage{FreeBytes: 50, TotalBytes: 100}
	c.Memory["x"] = record{
		Transfer: wants.transfer(), Failures: 1, Next: noon.Add(time.Minute), Managed: true,
		Failure: &failure{State: StateSkipped, Code: store.CodeNoRoom, Reason: "no room: so it is", NoRoom: &NoRoom{Need: need, Room: 0}},
	}
	return c
}

func (c *crowd) refused(change func(*NoRoom)) {
	change(c.Memory["x"].Failure.NoRoom)
}

// supersede gives a held model an old revision of these files, which may not be
// collected yet.
func (c *crowd) supersede(name string, files []store.ManifestFile) {
	have := c.Store.Value.Models[name]
	have.Old = []store.Manifest{{Name: name, Revision: "old", Files: files}}
	have.Manifest.PublishedAt = noon
	c.Store.Value.Models[name] = have
}

// moves makes the source of a held model one whose revision moves.
func (c *crowd) moves(t *testing.T, name string) {
	t.Helper()
	i := slices.IndexFunc(c.List, func(m Model) bool { return m.Name == name })
	c.List[i].Source = source(t, "hf://org/"+name+"@main")
	have := c.Store.Value.Models[name]
	have.Manifest.Source = "hf://org/" + name + "@main"
	c.Store.Value.Models[name] = have
	r := c.Memory[name]
	r.Transfer, r.LookedUp = c.List[i].transfer(), noon
	c.Memory[name] = r
}

func TestPlanMakesRoom(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   func(t *testing.T) *crowd
		want string
	}{
		{"what is less important leaves, its label first", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, 0).held(t, "b", 9, time.Hour).held(t, "c", 5, time.Hour)
			c.Promised["a"] = true
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n"},
		{"then its files", func(t *testing.T) *crowd {
			return full(t, 10).held(t, "a", 1, 0).held(t, "b", 9, time.Hour).held(t, "c", 5, time.Hour)
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n-> remove a\n"},
		{"of the same priority what was used least recently", func(t *testing.T) *crowd {
			return full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 1, 2*time.Hour).held(t, "c", 2, 9*time.Hour)
		}, "a warm +label\nb evicting\nc warm +label\nx queued\n-> remove b\n"},
		{"as much as it needs and no more", func(t *testing.T) *crowd {
			return full(t, 20).held(t, "a", 1, time.Hour).held(t, "b", 2, 2*time.Hour).held(t, "c", 3, time.Hour)
		}, "a evicting\nb evicting\nc warm +label\nx queued\n-> remove a\n-> remove b\n"},
		{"nothing, if all of it is not enough", func(t *testing.T) *crowd {
			return full(t, 31).held(t, "a", 1, time.Hour).held(t, "b", 2, time.Hour).held(t, "c", 3, time.Hour)
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"never the same priority", func(t *testing.T) *crowd {
			return full(t, 10).held(t, "a", 5, time.Hour).held(t, "b", 6, time.Hour).held(t, "c", 5, time.Hour)
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"never what a pod here names", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 6, time.Hour).held(t, "c", 6, time.Hour)
			c.Pods = []pod{podFor("a")}
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"a pod that ended holds nothing", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 6, time.Hour).held(t, "c", 6, time.Hour)
			p := podFor("a")
			p.Phase = corev1.PodFailed
			c.Pods = []pod{p}
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n-> remove a\n"},
		{"nothing while a pod here may use all", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 1, time.Hour).held(t, "c", 1, time.Hour)
			c.Pods = []pod{{UID: "u", Phase: corev1.PodRunning, Claims: []string{claimName}}}
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"nothing while the pods are not known", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 1, time.Hour).held(t, "c", 1, time.Hour)
			c.PodsKnown = false
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"never what somebody else put there", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 6, time.Hour).held(t, "c", 6, time.Hour)
			c.Memory["a"] = record{}
			c.List = slices.DeleteFunc(c.List, func(m Model) bool { return m.Name == "a" })
			return c
		}, "b warm +label\nc warm +label\nx skipped noRoom\n"},
		{"what nobody wants any more goes first, and does not wait for the grace period", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 9, 0).held(t, "c", 1, time.Hour)
			c.List = slices.DeleteFunc(c.List, func(m Model) bool { return m.Name == "b" })
			r := c.Memory["b"]
			r.Unwanted = noon
			c.Memory["b"] = r
			return c
		}, "a warm +label\nb evicting\nc warm +label\nx queued\n-> remove b\n"},
		{"a superseded revision before any model", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 1, 0)
			have := c.Store.Value.Models["b"]
			have.Old = []store.Manifest{{Name: "b", Revision: "old", Files: []store.ManifestFile{{Size: 10, SHA256: "old"}}}}
			have.Manifest.PublishedAt = noon
			c.Store.Value.Models["b"] = have
			c.Store.Value.Usage.FreeBytes -= 10
			c.Revisions["b"] = shortRevision(commit)
			return c
		}, "a warm +label\nb warm +label\nx queued\n-> prune b old\n"},
		{"content that others use as well frees nothing", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 6, 0).held(t, "c", 6, 0)
			a, b := c.Store.Value.Models["a"], c.Store.Value.Models["b"]
			a.Manifest.Files = b.Manifest.Files
			c.Store.Value.Models["a"] = a
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"shared with an old revision of the same model, it is counted once for each", func(t *testing.T) *crowd {
			c := full(t, 20).held(t, "a", 1, time.Hour).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.supersede("a", c.Store.Value.Models["b"].Manifest.Files)
			c.Revisions["a"] = shortRevision(commit) // the old one may leave by itself as well
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx skipped noRoom\n"},
		{"what only revisions of one model share is free when all of them leave", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.supersede("a", c.Store.Value.Models["a"].Manifest.Files)
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n-> remove a\n"},
		{"no other leaves while one is being removed", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 2, 0).held(t, "c", 9, 0)
			c.Removing["a"] = true
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n"},
		{"nor before the store was seen without it; and its label does not come back", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 2, 0).held(t, "c", 9, 0)
			c.Memory["a"] = record{Fresh: 2, Removed: &superseded{Name: "a"}}
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n"},
		{"nor before it was seen without an old revision", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 2, 0).held(t, "c", 9, 0)
			c.Store.Value.Usage.FreeBytes -= 10
			c.supersede("a", []store.ManifestFile{{Size: 20, SHA256: "old"}})
			r := c.Memory["a"]
			r.Fresh, r.Removed = 2, &superseded{Name: "a", Revision: "old"}
			c.Memory["a"] = r
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx queued\n"},
		{"what makes room waits for no room of its own", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.moves(t, "a")
			r := c.Memory["a"]
			r.Transfer, r.Next = c.List[1].transfer(), noon
			r.Failure = &failure{State: StateSkipped, Code: store.CodeNoRoom, NoRoom: &NoRoom{Need: 5}}
			c.Memory["a"] = r
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n-> remove a\n"},
		{"nor does a look at its revision keep it and send another away", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 2, 0).held(t, "c", 9, 0)
			c.moves(t, "a")
			c.Running["a"] = pulling{Transfer: c.List[1].transfer(), Lookup: true}
			return c
		}, "a evicting\nb warm +label\nc warm +label\nx queued\n-> cancel a\n"},
		{"an old revision that could not be removed is not tried all the time", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.supersede("a", []store.ManifestFile{{Size: 20, SHA256: "old"}})
			c.Revisions["a"] = shortRevision(commit)
			r := c.Memory["a"]
			r.PruneNext = noon.Add(time.Second)
			c.Memory["a"] = r
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx queued\n"},
		{"pulled at once when there is room after all", func(t *testing.T) *crowd {
			return full(t, 10).held(t, "a", 1, time.Hour)
		}, "a warm +label\nx queued\n-> pull x\n"},
		{"not again and again, when there is no more than there was", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 9, time.Hour)
			c.refused(func(r *NoRoom) { r.Room = 20 })
			return c
		}, "a warm +label\nx skipped noRoom\n"},
		{"now and then all the same: the source may have shrunk", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 9, time.Hour).held(t, "b", 9, 0).held(t, "c", 9, 0)
			r := c.Memory["x"]
			r.Next = noon
			c.Memory["x"] = r
			return c
		}, "a warm +label\nb warm +label\nc warm +label\nx queued\n-> pull x\n"},
		{"nothing leaves for what is only in the way for now", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 1, time.Hour)
			y := entry(t, "y")
			c.List = append(c.List, y)
			c.Running["y"] = pulling{Transfer: y.transfer(), Phase: "pulling", Admitted: true, Reserved: 15}
			c.refused(func(r *NoRoom) { r.Busy = true })
			return c
		}, "a warm +label\nx skipped noRoom\ny pulling\n"},
		{"what a pull has brought since the store was measured is no room", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 9, 0)
			y := entry(t, "y")
			c.List = append(c.List, y)
			c.Running["y"] = pulling{Transfer: y.transfer(), Phase: "pulling", Admitted: true, Reserved: 40, Done: 39}
			c.Store.Value.Taking = map[string]int64{"y": 15}
			c.refused(func(r *NoRoom) { r.Busy = true })
			return c
		}, "a warm +label\nx skipped noRoom\ny pulling\n"},
		{"nor is that of one that has ended since", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "a", 9, 0)
			c.Memory["y"] = record{Fresh: 2}
			c.refused(func(r *NoRoom) { r.Busy = true })
			return c
		}, "a warm +label\nx skipped noRoom\n"},
		{"what has left does not come back before the other has its room", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.List = append(c.List, entry(t, "a"))
			return c
		}, "a queued\nb warm +label\nc warm +label\nx queued\n-> pull x\n"},
		{"nor while the other looks its files up", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.List = append(c.List, entry(t, "a"))
			c.Running["x"] = pulling{Transfer: c.wants.transfer(), Phase: "listing"}
			return c
		}, "a queued\nb warm +label\nc warm +label\nx pulling\n"},
		{"then it is refused like any other", func(t *testing.T) *crowd {
			c := full(t, 10).held(t, "b", 9, 0).held(t, "c", 9, 0)
			c.List = append(c.List, entry(t, "a"))
			c.Running["x"] = pulling{Transfer: c.wants.transfer(), Phase: "pulling", Admitted: true, Reserved: 10}
			return c
		}, "a queued\nb warm +label\nc warm +label\nx pulling\n-> pull a\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, told(plan(tc.in(t).facts))); diff != "" {
				t.Errorf("plan differs (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the state of a node, making room takes nothing that must stay.
func TestPlanEvictsOnlyWhatMayGo(t *testing.T) {
	evictions := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := full(t, int64(1+r.IntN(60)))
		for i := range 1 + r.IntN(6) {
			name := fmt.Sprintf("m%d", i)
			c.held(t, name, r.IntN(8), time.Duration(r.IntN(100))*time.Minute)
			if r.IntN(4) == 0 {
				c.Pods = append(c.Pods, podFor(name))
			}
			if r.IntN(3) == 0 {
				c.Promised[name] = true
			}
			if r.IntN(4) == 0 {
				have, shared := c.Store.Value.Models[name], c.Store.Value.Models["m0"]
				have.Manifest.Files = append(have.Manifest.Files, shared.Manifest.Files...)
				c.Store.Value.Models[name] = have
			}
			if r.IntN(4) == 0 {
				c.List = slices.DeleteFunc(c.List, func(m Model) bool { return m.Name == name })
			}
		}
		before := c.Store.Value.Usage
		d := plan(c.facts)
		evicted := map[string]bool{}
		for _, m := range d.Models {
			if !strings.Contains(m.Reason, "makes room") {
				continue
			}
			evicted[m.Name] = true
			evictions++
			if m.Warm || m.Pods > 0 || (m.Wanted && m.Model.Priority >= c.wants.Priority) {
				t.Fatalf("seed %d: %s is evicted: %+v", seed, m.Name, m)
			}
		}
		for _, name := range d.Remove {
			if c.Promised[name] {
				t.Fatalf("seed %d: %s is removed while a label promises it", seed, name)
			}
		}
		if len(evicted) == 0 {
			continue
		}
		freed, left := map[string]int64{}, map[string]bool{}
		for name, have := range c.Store.Value.Models {
			for _, f := range have.Manifest.Files {
				if evicted[name] {
					freed[f.SHA256] = f.Size
				} else {
					left[f.SHA256] = true
				}
			}
		}
		room := before.FreeBytes - 20
		for sum, size := range freed {
			if !left[sum] {
				room += size
			}
		}
		if need := c.Memory["x"].Failure.NoRoom.Need; room < need {
			t.Fatalf("seed %d: %v leave, and there is room for %d of %d", seed, evicted, room, need)
		}
	}
	if evictions < 500 {
		t.Errorf("only %d evictions were tried", evictions)
	}
}
