package agent

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/fetcher/store"
)

func TestInRAM(t *testing.T) {
	for _, c := range []struct {
		said  bool
		share float64
		want  bool
	}{
		{false, 0, false},
		{false, 0.9799, false},
		{false, 0.98, true},
		{false, 1, true},
		{true, 1, true},
		{true, 0.98, true},
		{true, 0.90, true},
		{true, 0.8999, false},
		{true, 0, false},
	} {
		if got := inRAM(c.said, c.share); got != c.want {
			t.Errorf("said %t, %.2f%% resident: %t", c.said, 100*c.share, got)
		}
	}
	// A share that wanders between the bounds changes nothing.
	said, changes := false, 0
	for i := range 1000 {
		share := 0.94 + 0.039*math.Sin(float64(i))
		if i == 500 {
			share = 0.99
		}
		if now := inRAM(said, share); now != said {
			said, changes = now, changes+1
		}
	}
	if changes != 1 || !said {
		t.Errorf("%d changes, in the end %t", changes, said)
	}
}

func TestRAMBudget(t *testing.T) {
	// A machine of 200 GiB with 150 GiB not in use, of which pods may have 190.
	machine := headroom.State{Total: 200 * gib, Available: 150 * gib, Limit: headroom.None}
	with := func(change func(*ramFacts)) ramFacts {
		f := ramFacts{Config: RAMConfig{Budget: Share{Bytes: 60 * gib}}, Measured: true, Memory: machine, Allocatable: 190 * gib, Asked: 50 * gib}
		change(&f)
		return f
	}
	for name, c := range map[string]struct {
		f     ramFacts
		gib   int64
		bound string
		says  string
	}{
		"as set":                     {with(func(*ramFacts) {}), 60, RAMOverBudget, "agent.ram.budget is 60.0 GiB"},
		"not set":                    {with(func(f *ramFacts) { f.Config = RAMConfig{} }), 0, RAMOverBudget, "agent.ram.budget is not set"},
		"a share":                    {with(func(f *ramFacts) { f.Config.Budget = Share{Percent: 10} }), 19, RAMOverBudget, "19.0 GiB"},
		"a share of what is unknown": {with(func(f *ramFacts) { f.Config.Budget, f.Allocatable = Share{Percent: 10}, 0 }), 0, RAMUnmeasured, "does not say"},
		"a size where the Node says nothing": {
			with(func(f *ramFacts) { f.Allocatable = 0 }), 60, RAMOverBudget, "60.0 GiB",
		},
		"pods have asked for most": {with(func(f *ramFacts) { f.Asked = 180 * gib }), 10, RAMOverPods, "180.0 GiB of the 190.0 GiB"},
		"pods have asked for more than there is": {
			with(func(f *ramFacts) { f.Asked = 200 * gib }), 0, RAMOverPods, "200.0 GiB of the 190.0 GiB",
		},
		"little is free":        {with(func(f *ramFacts) { f.Memory.Available = 30 * gib }), 20, RAMOverUse, "not in use"},
		"nothing is free":       {with(func(f *ramFacts) { f.Memory.Available = gib }), 0, RAMOverUse, "not in use"},
		"the agent has a limit": {with(func(f *ramFacts) { f.Memory.Limit = 62 * gib }), 60, RAMOverBudget, "60.0 GiB"},
		"the agent's limit is less": {
			with(func(f *ramFacts) { f.Memory.Limit = 2 * gib }), 1, RAMOverLimit, "the agent's memory limit is 2.0 GiB",
		},
		"memory is not known": {with(func(f *ramFacts) { f.MemoryErr = errors.New("no /proc") }), 0, RAMUnmeasured, "no /proc"},
	} {
		got := c.f.budget()
		if got.Bytes != c.gib*gib || got.Bound != c.bound || !strings.Contains(got.Why, c.says) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// What happens to be free changes from second to second and stands in no text.
	if why := with(func(f *ramFacts) { f.Memory.Available = 30 * gib }).budget().Why; strings.ContainsAny(why, "0123456789") {
		t.Errorf("%q would change all the time", why)
	}
}

// ramWorld is a node with warm models, each with a weight of its own and one file
// that some share.
func ramWorld(t *testing.T, budget int64, models ...Model) facts {
	t.Helper()
	f := world(models...)
	f.RAM = ramFacts{
		Config: RAMConfig{Budget: Share{Bytes: budget}}, Measured: true, Stale: time.Minute,
		Memory: headroom.State{Total: 1000, Available: 1000, Limit: headroom.None}, Resident: map[string]residency{},
	}
	for _, m := range models {
		s := published(m, nil)
		s.Manifest.Bytes = 100
		s.Manifest.Files = []store.ManifestFile{{Path: "w", SHA256: m.Name, Size: 100}}
		f.Store.Value.Models[m.Name] = s
		f.RAM.Resident[m.Name] = residency{Revision: commit, Size: 100, At: noon}
	}
	return f
}

func inMemory(t *testing.T, name string, priority int) Model {
	t.Helper()
	m := entry(t, name)
	m.RAM, m.Priority = true, priority
	return m
}

// held lists the models that are read, in order.
func held(d decision) string {
	var names []string
	for _, t := range d.Memory.Targets {
		if t.Read {
			names = append(names, t.Manifest.Name)
		}
	}
	return strings.Join(names, " ")
}

func TestRAMChoice(t *testing.T) {
	a, b, c := inMemory(t, "a", 0), inMemory(t, "b", 5), inMemory(t, "c", 0)
	plain := entry(t, "plain")
	share := func(f facts, names ...string) facts {
		for _, name := range names {
			s := f.Store.Value.Models[name]
			s.Manifest.Files = []store.ManifestFile{{Path: "w", SHA256: name, Size: 40}, {Path: "s", SHA256: "shared", Size: 60}}
			f.Store.Value.Models[name] = s
		}
		return f
	}
	with := func(f facts, change func(*facts)) facts { change(&f); return f }
	for name, tc := range map[string]struct {
		f     facts
		held  string
		taken int64
	}{
		"all fit":                       {ramWorld(t, 300, a, b, c), "b a c", 300},
		"the most important one":        {ramWorld(t, 100, a, b, c), "b", 100},
		"then the first of the list":    {ramWorld(t, 299, a, b, c), "b a", 200},
		"what nobody wants there":       {ramWorld(t, 300, plain, a), "a", 100},
		"what does not fit is passed":   {with(ramWorld(t, 150, a, b), func(f *facts) { f.Store.Value.Models["b"].Manifest.Files[0].Size = 200 }), "a", 100},
		"what a pod names comes first":  {with(ramWorld(t, 200, a, b, c), func(f *facts) { f.Pods = []pod{podFor("c")} }), "b c", 200},
		"but not before more important": {with(ramWorld(t, 100, a, b, c), func(f *facts) { f.Pods = []pod{podFor("c")} }), "b", 100},
		"shared content counts once":    {share(ramWorld(t, 240, a, b, c), "a", "b"), "b a c", 240},
		"and again if its user is out":  {share(ramWorld(t, 139, a, b, c), "a", "b"), "b", 100},
		"nothing before it is measured": {with(ramWorld(t, 300, a), func(f *facts) { f.RAM.Measured = false }), "", 0},
		"nothing while pods are unknown": {
			with(ramWorld(t, 300, a), func(f *facts) { f.PodsKnown = false }), "", 0,
		},
		"what cannot be measured takes no room": {
			with(ramWorld(t, 100, a, b), func(f *facts) {
				f.RAM.Resident["b"] = residency{Revision: commit, Err: store.ErrUnmeasurable}
			}), "a", 100,
		},
		"what is hardly free is not taken": {with(ramWorld(t, 300, a), func(f *facts) { f.RAM.Memory.Available = 152 }), "", 0},
		"nor left":                         {with(ramWorld(t, 300, a), func(f *facts) { f.RAM.Memory.Available, f.RAM.Held = 152, map[string]bool{"a": true} }), "a", 100},
	} {
		d := plan(tc.f)
		if got := held(d); got != tc.held || d.Memory.Taken != tc.taken {
			t.Errorf("%s: held are %q with %d bytes", name, got, d.Memory.Taken)
		}
		if again := held(plan(tc.f)); again != tc.held {
			t.Errorf("%s: the second time %q", name, again)
		}
	}
}

func TestRAMTier(t *testing.T) {
	a := inMemory(t, "a", 0)
	with := func(f facts, change func(*facts)) facts { change(&f); return f }
	measured := func(bytes int64) residency { return residency{Revision: commit, Bytes: bytes, Size: 100, At: noon} }
	said := func(f *facts) {
		f.NodeLabels[WarmPrefix+"a"], f.Revisions["a"] = TierRAM, shortRevision(commit)
	}
	for name, tc := range map[string]struct {
		f    facts
		tier string
		says string
	}{
		"all of it":        {with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Resident["a"] = measured(100) }), TierRAM, ""},
		"most of it":       {with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Resident["a"] = measured(97) }), TierDisk, "it is being read into memory"},
		"most, and it was": {with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Resident["a"] = measured(90); said(f) }), TierRAM, ""},
		"too little":       {with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Resident["a"] = measured(89); said(f) }), TierDisk, "it is being read"},
		"it was, at another revision": {
			with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Resident["a"] = measured(95); said(f); f.Revisions["a"] = "fedcba987654" }), TierDisk, "it is being read",
		},
		"another revision was measured": {
			with(ramWorld(t, 100, a), func(f *facts) {
				f.RAM.Resident["a"] = residency{Revision: "other", Bytes: 100, Size: 100, At: noon}
				said(f)
			}), TierDisk, "not been measured yet",
		},
		"long ago": {
			with(ramWorld(t, 100, a), func(f *facts) {
				r := measured(100)
				r.At = noon.Add(-time.Hour)
				f.RAM.Resident["a"] = r
				said(f)
			}), TierDisk, "not been measured for too long",
		},
		"never":         {with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Resident = nil; said(f) }), TierDisk, "not been measured yet"},
		"no budget":     {with(ramWorld(t, 0, a), func(f *facts) { f.RAM.Config.Budget = Share{} }), TierDisk, "it takes 100 B, and agent.ram.budget is not set"},
		"a full budget": {ramWorld(t, 100, inMemory(t, "first", 1), a), TierDisk, "it takes 100 B, beside 100 B of what comes first, and agent.ram.budget is 100 B"},
		"out of the budget, and there all the same": {
			with(ramWorld(t, 10, a), func(f *facts) { f.RAM.Resident["a"] = measured(100) }), TierRAM, "",
		},
		"pods need it": {
			with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Allocatable, f.RAM.Asked = 190, 150 }), TierDisk, "pods on this node have asked for 150 B of the 190 B",
		},
		"the agent's own limit": {
			with(ramWorld(t, 100, a), func(f *facts) { f.RAM.Memory.Limit = 120 }), TierDisk, "the agent's memory limit is 120 B",
		},
		"it cannot be told": {
			with(ramWorld(t, 100, a), func(f *facts) {
				f.RAM.Resident["a"] = residency{Revision: commit, At: noon, Err: fmt.Errorf("measure: %w", store.ErrUnmeasurable)}
				said(f)
			}), TierDisk, "what the page cache holds of it cannot be told",
		},
		"an error": {
			with(ramWorld(t, 100, a), func(f *facts) {
				f.RAM.Resident["a"] = residency{Revision: commit, At: noon, Err: errors.New("it hangs")}
			}), TierDisk, "cannot be counted: it hangs",
		},
		"it does not stay": {
			with(ramWorld(t, 100, a), func(f *facts) {
				r := measured(50)
				r.Leaves = true
				f.RAM.Resident["a"] = r
			}), TierDisk, "do not stay in memory",
		},
		"nobody wants it there": {
			with(ramWorld(t, 100, entry(t, "a")), func(f *facts) { f.RAM.Resident["a"] = measured(100) }), TierDisk, "",
		},
	} {
		d := plan(tc.f)
		i := slices.IndexFunc(d.Models, func(m modelState) bool { return m.Name == "a" })
		m := d.Models[i]
		if m.Tier != tc.tier || (tc.says == "") != (m.NotInRAM == "") || !strings.Contains(m.NotInRAM, tc.says) {
			t.Errorf("%s: tier %s, %q (%s)", name, m.Tier, m.NotInRAM, m.RAMState)
		}
		if (m.RAMState == "") == m.Model.RAM {
			t.Errorf("%s: its state is %q", name, m.RAMState)
		}
		if l := labels(d.Models, gpuWord{Count: unknown}); l[WarmPrefix+"a"] != tc.tier {
			t.Errorf("%s: the label is %q", name, l[WarmPrefix+"a"])
		}
	}
}

// A pull that is larger than what may be in memory stays out of it.
func TestRAMCache(t *testing.T) {
	first, second := inMemory(t, "first", 1), inMemory(t, "second", 0)
	pulled, ordinary := inMemory(t, "pulled", 0), entry(t, "ordinary")
	f := ramWorld(t, 250, first, second)
	f.List = append(f.List, pulled, ordinary)
	got := map[string]int64{}
	for _, o := range plan(f).Start {
		got[o.Model.Name] = o.Cache
	}
	// 250 less what is at least as important; half of 1000 less all that is held.
	want := map[string]int64{"pulled": 50, "ordinary": 300}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what may stay in memory of pulls (-want +got):\n%s", diff)
	}
	f.RAM.Config.Budget = Share{Bytes: 200}
	f.RAM.Memory.Limit = 300 // of which half is the agent's own
	got = map[string]int64{}
	for _, o := range plan(f).Start {
		got[o.Model.Name] = o.Cache
	}
	if diff := cmp.Diff(map[string]int64{"pulled": 50, "ordinary": 50}, got); diff != "" {
		t.Errorf("below a limit (-want +got):\n%s", diff)
	}
	f.RAM.Config = RAMConfig{}
	for _, o := range plan(f).Start {
		if o.Cache != 0 {
			t.Errorf("without a budget, %s may keep %d bytes", o.Model.Name, o.Cache)
		}
	}
}

// What the agent's own pod has asked for is not what pods leave it.
func TestRAMFactsLeaveTheAgentOut(t *testing.T) {
	b := newBench(t, "models: []")
	b.agent.loop.nodeSeen.Memory = 100
	ended := podFor("ended")
	ended.Phase, ended.Memory = corev1.PodSucceeded, 7
	pods := []pod{{UID: "agent", Memory: 60}, {UID: "serving", Memory: 30}, ended}
	if f := b.agent.ramFacts(pods); f.Asked != 90 || f.Allocatable != 100 {
		t.Errorf("by an agent that does not know its pod: %+v", f)
	}
	b.agent.o.PodUID = "agent"
	if f := b.agent.ramFacts(pods); f.Asked != 30 {
		t.Errorf("pods have asked for %d", f.Asked)
	}
}
