package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/fetcher"
)

func TestColdTaintsKeepTheirPlaces(t *testing.T) {
	cold := corev1.Taint{Key: ColdTaint, Effect: corev1.TaintEffectNoSchedule}
	evicts := corev1.Taint{Key: ColdTaint, Value: "x", Effect: corev1.TaintEffectNoExecute}
	got := coldTaints([]corev1.Taint{{Key: "nvidia.com/gpu"}, cold, {Key: "stoker.dev/other"}, evicts})
	if diff := cmp.Diff([]coldTaint{{1, cold}, {3, evicts}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecideStartup(t *testing.T) {
	a, low := entry(t, "a"), entry(t, "low")
	low.Priority = -1
	elsewhere := entry(t, "elsewhere")
	elsewhere.NodeSelector = map[string]string{"pool": "other"}
	cfg := StartupConfig{Timeout: time.Minute}
	warm := func() facts {
		f := world(a, low, elsewhere)
		f.Store.Value.Models["a"] = published(a, nil)
		f.Promised["a"], f.Revisions["a"] = true, shortRevision(commit)
		return f
	}
	for _, tc := range []struct {
		name  string
		in    func() facts
		since time.Duration
		want  startup
	}{
		{"warm is what the API server has confirmed", warm, 0, startup{Lift: true}},
		{"a label that is not written yet", func() facts {
			f := warm()
			delete(f.Revisions, "a")
			return f
		}, 0, startup{Waiting: []string{"a"}}},
		{"not warm", func() facts { return world(a, low, elsewhere) }, 30 * time.Second, startup{Waiting: []string{"a"}}},
		{"not warm for too long", func() facts { return world(a, low, elsewhere) }, time.Minute, startup{Lift: true, Late: true, Waiting: []string{"a"}}},
		{"nothing to wait for", func() facts { return world(low) }, 0, startup{Lift: true}},
		{"a store that is not known", func() facts {
			f := world()
			f.Store.Known = false
			return f
		}, 0, startup{}},
		{"a store that is not known for too long", func() facts {
			f := world()
			f.Store.Known = false
			return f
		}, 2 * time.Minute, startup{Lift: true, Late: true}},
	} {
		f := tc.in()
		tc.want.At = noon.Add(-tc.since).Add(cfg.Timeout)
		if diff := cmp.Diff(tc.want, decideStartup(f, plan(f), noon.Add(-tc.since), cfg)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestLoopLiftsTheStartupTaint(t *testing.T) {
	cold := []coldTaint{{Index: 1, Taint: corev1.Taint{Key: ColdTaint, Effect: corev1.TaintEffectNoSchedule}}}
	t.Run("when the label is confirmed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, oneModel+fast)
			b.cluster.set(func() { b.cluster.view.Cold = cold })
			b.puller.set(func() { b.puller.takes = 20 * time.Second })
			b.start()
			after(15 * time.Second)
			if len(b.cluster.cold()) == 0 {
				t.Error("lifted while the model is being pulled")
			}
			after(10 * time.Second)
			if len(b.cluster.cold()) > 0 || b.cluster.told(EventNodeWarm) != 1 {
				t.Errorf("warm, and the taint stands: %v, told %d times", b.cluster.cold(), b.cluster.told(EventNodeWarm))
			}
		})
	})
	t.Run("the timeout of another Node of the same name begins anew", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, oneModel+fast+"startup: {timeout: 10m}\n")
			b.cluster.set(func() { b.cluster.view.Cold = cold })
			b.puller.set(func() { b.puller.err = &fetcher.Error{Kind: fetcher.ErrRefused} })
			b.start()
			after(6 * time.Minute)
			b.cluster.set(func() { b.cluster.view.UID = "uid-2" })
			after(8 * time.Minute)
			if len(b.cluster.cold()) == 0 {
				t.Error("lifted before the timeout")
			}
			after(3 * time.Minute)
			if len(b.cluster.cold()) > 0 {
				t.Error("it stands after the timeout")
			}
		})
	})
	t.Run("after the timeout, restarts counted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, oneModel+fast+"startup: {timeout: 10m}\n")
			b.cluster.set(func() { b.cluster.view.Cold = cold })
			b.puller.set(func() { b.puller.err = &fetcher.Error{Kind: fetcher.ErrRefused} })
			b.start()
			after(6 * time.Minute)
			b.stop()
			b.make()
			b.start()
			after(3 * time.Minute)
			if len(b.cluster.cold()) == 0 {
				t.Error("lifted before the timeout")
			}
			after(2 * time.Minute)
			if len(b.cluster.cold()) > 0 || b.cluster.told(EventNodeStillCold) != 1 || b.cluster.told(EventNodeWarm) != 0 {
				t.Errorf("it stands after the timeout: %v", b.cluster.cold())
			}
		})
	})
}
