package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func source(t *testing.T, text string) fetcher.Source {
	t.Helper()
	src, err := fetcher.ParseSource(text)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// entry is a list entry at a pinned revision.
func entry(t *testing.T, name string) Model {
	t.Helper()
	return Model{Name: name, Source: source(t, "hf://org/"+name+"@"+commit), Refresh: time.Hour}
}

// published is what the store holds of an entry.
func published(m Model, err error) storedModel {
	return storedModel{Err: err, Manifest: store.Manifest{
		Name: m.Name, Source: m.Source.String(), Revision: commit, Bytes: 7, Include: m.Include, Also: m.Also, Exclude: m.Exclude, Selection: fetcher.SelectionVersion,
		PublishedAt: noon.Add(-time.Hour),
	}}
}

// byRules is a model whose files were chosen by another version of the rules.
func byRules(s storedModel, version int) storedModel {
	s.Manifest.Selection = version
	return s
}

func podFor(name string) pod {
	return pod{UID: "pod-" + name, Phase: corev1.PodPending, Labels: map[string]string{ModelLabel: name}}
}

// world is a node on which everything is known and nothing is there.
func world(models ...Model) facts {
	return facts{
		Now: noon, Concurrent: 2, List: models, ListKnown: true, NodeKnown: true, PodsKnown: true, PromiseKnown: true,
		NodeLabels: map[string]string{"pool": "gpu"},
		Intervals:  Intervals{Grace: time.Minute, RetryMin: time.Second, RetryMax: time.Minute},
		Store:      answer[storeView]{Known: true, Gen: 1, Value: storeView{Models: map[string]storedModel{}}},
		Memory:     map[string]record{}, Running: map[string]pulling{}, Removing: map[string]bool{},
		Promised: map[string]bool{}, Revisions: map[string]string{},
	}
}

// told renders a decision in short lines: what is said of each model, then what
// is done.
func told(d decision) string {
	var b strings.Builder
	for _, m := range d.Models {
		fmt.Fprintf(&b, "%s %s", m.Name, m.State)
		if m.Warm {
			b.WriteString(" +label")
		}
		if m.Code != "" {
			b.WriteString(" " + m.Code)
		}
		b.WriteString("\n")
	}
	for _, o := range d.Start {
		verb := "pull"
		if o.Lookup {
			verb = "look up"
		}
		fmt.Fprintf(&b, "-> %s %s\n", verb, o.Model.Name)
	}
	for _, n := range d.Cancel {
		fmt.Fprintf(&b, "-> cancel %s\n", n)
	}
	for _, n := range d.Remove {
		fmt.Fprintf(&b, "-> remove %s\n", n)
	}
	for _, s := range d.Prune {
		fmt.Fprintf(&b, "-> prune %s %s\n", s.Name, s.Revision)
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	a, b, c := entry(t, "a"), entry(t, "b"), entry(t, "c")
	moving := a
	moving.Source = source(t, "hf://org/a@main")
	movingStored := published(moving, nil)
	elsewhere := a
	elsewhere.NodeSelector = map[string]string{"pool": "other"}
	important := c
	important.Priority = 10
	corrupt := fmt.Errorf("a: model.safetensors is missing: %w", store.ErrCorrupt)
	failed := record{Transfer: a.transfer(), Failure: &failure{State: StateFailed, Reason: "refused", Code: store.CodeRefused}, Next: noon.Add(time.Second), Failures: 1}
	other := a
	other.Source = source(t, "hf://other/a@"+commit)
	withAdapters := podFor("b")
	withAdapters.Adapters = []string{"a", "b", "typo"}
	onlyAdapters := pod{UID: "x", Phase: corev1.PodRunning, Adapters: []string{"a"}, Claims: []string{claimName}}
	over := podFor("a")
	over.Phase = corev1.PodSucceeded
	mounts := pod{UID: "x", Phase: corev1.PodRunning, Claims: []string{claimName}}
	unwanted := record{Managed: true, Unwanted: noon.Add(-2 * time.Minute)}

	for _, tc := range []struct {
		name string
		in   func() facts
		want string
	}{
		{"absent: pulled", func() facts { return world(a) }, "a queued\n-> pull a\n"},
		{"at most so many at once, by priority, then in the list's order", func() facts { return world(a, b, important) }, "a queued\nb queued\nc queued\n-> pull c\n-> pull a\n"},
		{"another node's model", func() facts { return world(elsewhere) }, "a skipped\n"},
		{"a node that is not known yet pulls nothing that it may not hold", func() facts {
			f := world(elsewhere, b)
			f.NodeKnown = false
			return f
		}, "a skipped\nb queued\n-> pull b\n"},
		{"a pod here names it: pulled although the selector leaves this node out, and first", func() facts {
			f := world(important, b, elsewhere)
			f.Pods = []pod{podFor("a")}
			return f
		}, "a queued\nb queued\nc queued\n-> pull a\n-> pull c\n"},
		{"a pod here names it as an adapter: the same, and what no list has is refused", func() facts {
			f := world(important, b, elsewhere)
			f.Pods = []pod{withAdapters}
			return f
		}, "a queued\nb queued\nc queued\ntypo failed refused\n-> pull b\n-> pull a\n"},
		{"a pod that has ended names nothing", func() facts {
			f := world(elsewhere)
			f.Pods = []pod{over}
			return f
		}, "a skipped\n"},
		{"a pod's model takes the slot of the least urgent one", func() facts {
			f := world(a, b, important)
			f.Running = map[string]pulling{"b": {Transfer: b.transfer()}, "c": {Transfer: important.transfer()}}
			f.Pods = []pod{podFor("a")}
			return f
		}, "a queued\nb pulling\nc pulling\n-> cancel b\n"},
		{"no other model loses its slot", func() facts {
			f := world(a, b, important)
			f.Running = map[string]pulling{"a": {Transfer: a.transfer()}, "b": {Transfer: b.transfer()}}
			return f
		}, "a pulling\nb pulling\nc queued\n"},
		{"a pod names what no list has", func() facts {
			f := world()
			f.Pods = []pod{podFor("typo"), podFor("Not_A_Name")}
			return f
		}, "typo failed refused\n"},
		{"published and right: warm, and no network", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, "a warm +label\n"},
		{"changed files: the label goes first", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = published(a, corrupt)
			f.Promised["a"] = true
			return f
		}, "a queued\n"},
		{"changed files, label confirmed gone: pulled again", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = published(a, corrupt)
			return f
		}, "a queued\n-> pull a\n"},
		{"changed files, the Node was never read: not touched", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = published(a, corrupt)
			f.PromiseKnown = false
			return f
		}, "a queued\n"},
		{"files that cannot be checked are no label, and are not touched", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = published(a, errors.New("input/output error"))
			return f
		}, "a failed\n"},
		{"another source under the same name: the label goes first", func() facts {
			f := world(other)
			f.Store.Value.Models["a"] = published(a, nil)
			f.Promised["a"] = true
			return f
		}, "a queued\n"},
		{"another source under the same name: then it is pulled", func() facts {
			f := world(other)
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, "a queued\n-> pull a\n"},
		{"the store cannot be read: nothing is promised, nothing is done", func() facts {
			f := world(a)
			f.Store = answer[storeView]{Err: errors.New("stale file handle"), Gen: 2}
			return f
		}, "a failed\n"},
		{"the store has not answered yet", func() facts {
			f := world(a)
			f.Store = answer[storeView]{}
			return f
		}, "a absent\n"},
		{"another revision is asked for: pulled beside the old one", func() facts {
			m := a
			m.Source = source(t, "hf://org/a@"+strings.Repeat("f", 40))
			f := world(m)
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, "a updating +label\n-> pull a\n"},
		{"other files are asked for: pulled beside", func() facts {
			m := a
			m.Include = []string{"*.json"}
			f := world(m)
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, "a updating +label\n-> pull a\n"},
		{"more files are asked for: pulled beside", func() facts {
			m := a
			m.Also = []string{"original/"}
			f := world(m)
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, "a updating +label\n-> pull a\n"},
		{"the other format is asked for: pulled beside", func() facts {
			m := a
			m.FileFormat = fetcher.FormatHF
			f := world(m)
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, "a updating +label\n-> pull a\n"},
		{"its files were chosen by older rules: listed again, and the label stays", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = byRules(published(a, nil), 0)
			return f
		}, "a updating +label\n-> pull a\n"},
		{"the same, while the source cannot be reached", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = byRules(published(a, nil), 0)
			f.Memory["a"] = record{
				Transfer: a.transfer(), Failure: &failure{State: StateFailed, Reason: "offline"}, Failures: 1, Next: noon.Add(time.Minute),
			}
			return f
		}, "a updating +label\n"},
		{"its files were chosen by newer rules: left alone", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = byRules(published(a, nil), fetcher.SelectionVersion+1)
			return f
		}, "a warm +label\n"},
		{"while the new one comes in", func() facts {
			f := world(moving)
			f.Store.Value.Models["a"] = movingStored
			f.Running["a"] = pulling{Transfer: moving.transfer()}
			return f
		}, "a updating +label\n"},
		{"a moving revision is looked up in time", func() facts {
			f := world(moving)
			f.Store.Value.Models["a"] = movingStored
			f.Memory["a"] = record{LookedUp: noon.Add(-time.Hour)}
			return f
		}, "a warm +label\n-> look up a\n"},
		{"and not before", func() facts {
			f := world(moving)
			f.Store.Value.Models["a"] = movingStored
			f.Memory["a"] = record{LookedUp: noon.Add(-59 * time.Minute)}
			return f
		}, "a warm +label\n"},
		{"a failed lookup takes nothing away, and waits", func() facts {
			f := world(moving)
			f.Store.Value.Models["a"] = movingStored
			r := failed
			r.Transfer, r.LookedUp = moving.transfer(), noon.Add(-2*time.Hour)
			f.Memory["a"] = r
			return f
		}, "a warm +label\n"},
		{"pulls come before lookups", func() facts {
			f := world(moving, b)
			f.Concurrent = 1
			f.Store.Value.Models["a"] = movingStored
			return f
		}, "a warm +label\nb queued\n-> pull b\n"},
		{"failed: waits, and blocks no other", func() facts {
			f := world(a, b)
			f.Memory["a"] = failed
			return f
		}, "a failed refused\nb queued\n-> pull b\n"},
		{"failed: its time has come", func() facts {
			f := world(a)
			f.Memory["a"] = failed
			f.Now = noon.Add(time.Second)
			return f
		}, "a queued\n-> pull a\n"},
		{"failed: after one of its priority that was not tried", func() facts {
			f := world(a, b)
			f.Memory["a"], f.Now, f.Concurrent = failed, noon.Add(time.Second), 1
			return f
		}, "a queued\nb queued\n-> pull b\n"},
		{"failed: by priority all the same", func() facts {
			m := a
			m.Priority = 1
			f := world(m, b)
			f.Memory["a"], f.Now, f.Concurrent = failed, noon.Add(time.Second), 1
			return f
		}, "a queued\nb queued\n-> pull a\n"},
		{"failed: those of one priority take turns", func() facts {
			f, waited := world(a, b), failed
			waited.Transfer, waited.Next = b.transfer(), failed.Next.Add(-time.Millisecond)
			f.Memory["a"], f.Memory["b"], f.Now, f.Concurrent = failed, waited, noon.Add(time.Second), 1
			return f
		}, "a queued\nb queued\n-> pull b\n"},
		{"failed: the entry changed, tried at once", func() facts {
			m := a
			m.Credentials = "team"
			f := world(m)
			f.Memory["a"] = failed
			return f
		}, "a queued\n-> pull a\n"},
		{"the entry changes under a running pull", func() facts {
			f := world(other)
			f.Running["a"] = pulling{Transfer: a.transfer()}
			return f
		}, "a pulling\n-> cancel a\n"},
		{"taken off the list while it is pulled", func() facts {
			f := world()
			f.Running["a"] = pulling{Transfer: a.transfer()}
			return f
		}, "-> cancel a\n"},
		{"verifying", func() facts {
			f := world(a)
			f.Running["a"] = pulling{Transfer: a.transfer(), Phase: fetcher.PhasePublishing}
			return f
		}, "a verifying\n"},
		{"just pulled: the store is looked at before anything is said or done", func() facts {
			f := world(a)
			f.Memory["a"] = record{Fresh: 2}
			return f
		}, "a verifying\n"},
		{"just removed and listed again: the old view promises nothing", func() facts {
			f := world(a)
			f.Store.Value.Models["a"] = published(a, nil)
			f.Removing["a"] = true
			return f
		}, "a evicting\n"},
		{"off the list: unlabelled at once, kept for the grace period", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = record{Managed: true, Unwanted: noon.Add(-30 * time.Second)}
			return f
		}, "a evicting\n"},
		{"then removed", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			return f
		}, "a evicting\n-> remove a\n"},
		{"not while the Node may promise it", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			f.Promised["a"] = true
			return f
		}, "a evicting\n"},
		{"not while a pod here names it", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			f.Pods = []pod{podFor("a")}
			return f
		}, "a evicting\n"},
		{"not while a pod here names it as an adapter", func() facts {
			f := world(b)
			f.Store.Value.Models["a"], f.Store.Value.Models["b"] = published(a, nil), published(b, nil)
			f.Memory["a"] = unwanted
			f.Pods = []pod{withAdapters}
			return f
		}, "a evicting\nb warm +label\ntypo failed refused\n"},
		{"adapters without a model name none: the pod may use any", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			f.Pods = []pod{onlyAdapters}
			return f
		}, "a evicting\n"},
		{"not while a pod here may use any model", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			f.Pods = []pod{mounts}
			return f
		}, "a evicting\n"},
		{"not while the pods here are not known", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			f.PodsKnown = false
			return f
		}, "a evicting\n"},
		{"the selector leaves this node out: the same", func() facts {
			f := world(elsewhere)
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			return f
		}, "a evicting\n-> remove a\n"},
		{"nothing is collected while a label promises what has lost its manifest", func() facts {
			f := world(b)
			f.Store.Value.Models["a"] = published(a, nil)
			f.Memory["a"] = unwanted
			f.Promised["b"] = true
			return f
		}, "a evicting\nb queued\n-> pull b\n"},
		{"what somebody else put into the store stays", func() facts {
			f := world()
			f.Store.Value.Models["a"] = published(a, nil)
			return f
		}, ""},
		{"an old revision goes when the Node says the new one", func() facts {
			f := world(a)
			s := published(a, nil)
			s.Old = []store.Manifest{{Name: "a", Revision: "old"}}
			f.Store.Value.Models["a"] = s
			f.Revisions["a"] = shortRevision(commit)
			return f
		}, "a warm +label\n-> prune a old\n"},
		{"an old revision goes though the clock was set back since the switch", func() facts {
			f := world(a)
			s := published(a, nil)
			s.Old = []store.Manifest{{Name: "a", Revision: "old"}}
			s.Manifest.PublishedAt = noon.Add(48 * time.Hour)
			f.Store.Value.Models["a"] = s
			f.Revisions["a"] = shortRevision(commit)
			return f
		}, "a warm +label\n-> prune a old\n"},
		{"an old revision stays while the Node says another", func() facts {
			f := world(a)
			s := published(a, nil)
			s.Old = []store.Manifest{{Name: "a", Revision: "old"}}
			f.Store.Value.Models["a"] = s
			f.Revisions["a"] = "old"
			return f
		}, "a warm +label\n"},
		{"an old revision stays while a pod may read it", func() facts {
			f := world(a)
			s := published(a, nil)
			s.Old = []store.Manifest{{Name: "a", Revision: "old"}}
			f.Store.Value.Models["a"] = s
			f.Revisions["a"] = shortRevision(commit)
			f.Pods = []pod{podFor("a")}
			return f
		}, "a warm +label\n"},
		{"an old revision stays while a pod may read it as an adapter", func() facts {
			f := world(a, b)
			s := published(a, nil)
			s.Old = []store.Manifest{{Name: "a", Revision: "old"}}
			f.Store.Value.Models["a"], f.Store.Value.Models["b"] = s, published(b, nil)
			f.Revisions["a"] = shortRevision(commit)
			f.Pods = []pod{withAdapters}
			return f
		}, "a warm +label\nb warm +label\ntypo failed refused\n"},
		{"a pod from before the switch holds an old revision, one from after it does not", func() facts {
			f := world(a)
			s := published(a, nil)
			s.Old = []store.Manifest{{Name: "a", Revision: "old"}}
			f.Store.Value.Models["a"] = s
			f.Revisions["a"] = shortRevision(commit)
			p := podFor("a")
			p.Created = s.Manifest.PublishedAt.Add(2 * clockSkew)
			f.Pods = []pod{p}
			return f
		}, "a warm +label\n-> prune a old\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, told(plan(tc.in()))); diff != "" {
				t.Errorf("plan differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanWakesInTime(t *testing.T) {
	a := entry(t, "a")
	f := world(a)
	f.Memory["a"] = record{Transfer: a.transfer(), Failure: &failure{State: StateFailed}, Next: noon.Add(7 * time.Second)}
	if d := plan(f); !d.Wake.Equal(noon.Add(7 * time.Second)) {
		t.Errorf("wakes at %v, want at the next attempt", d.Wake)
	}
	f = world()
	f.Store.Value.Models["a"] = published(a, nil)
	f.Memory["a"] = record{Managed: true, Unwanted: noon.Add(-50 * time.Second)}
	if d := plan(f); !d.Wake.Equal(noon.Add(10 * time.Second)) {
		t.Errorf("wakes at %v, want at the end of the grace period", d.Wake)
	}
}

func TestUpToDateAfterAPullThatFoundTheSameRevision(t *testing.T) {
	m := entry(t, "a")
	have := published(m, nil).Manifest
	m.Source = source(t, "hf://org/a@v1.0") // a tag of the commit that is there
	r := record{Transfer: m.transfer(), PulledRevision: commit}
	if !upToDate(m, have, r) {
		t.Error("a pull that resolved to what is published must not be repeated")
	}
	if upToDate(m, have, record{}) {
		t.Error("another revision must be looked up once")
	}
}
