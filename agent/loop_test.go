package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
)

const oneModel = "models: [{name: a, source: 'hf://org/a@" + commit + "'}]\n"

// fast is a configuration in which everything happens within a second or so.
const fast = "intervals: {observe: 1s, labelWrites: 1s, verify: 2s, gpu: 5s, retryMin: 1s, retryMax: 8s, resync: 10s, timeout: 4s, grace: 10s, gpuRise: 5s, gpuLeak: 1m}\n"

// after lets so much time pass, and everything that is due in it happen.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestLoopPullsAndSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(200 * time.Millisecond)
		if got := b.cluster.label(IdleLabel); got != "1" {
			t.Errorf("idle is %q, want what is known said at once", got)
		}
		if got := b.cluster.label(WarmPrefix + "a"); got != "" {
			t.Errorf("warm is %q before a byte was verified", got)
		}
		if st := b.store.status("a"); st.State != string(StatePulling) || st.Total != 7 {
			t.Errorf("those who wait read %+v", st)
		}
		after(5 * time.Second)
		for key, want := range map[string]string{
			WarmPrefix + "a": "disk", RevPrefix + "a": commit[:12], "foreign": "stays", FreeGiBLabel: "76",
		} {
			if got := b.cluster.label(key); got != want {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
		if n := b.cluster.told(EventModelWarm); n != 1 {
			t.Errorf("ModelWarm was told %d times", n)
		}
		if b.agent.isReady() != nil || b.agent.healthy(time.Now()) != nil {
			t.Error("neither ready nor healthy")
		}
		writes := b.cluster.count()
		after(time.Hour)
		if more := b.cluster.count() - writes; more != 0 {
			t.Errorf("%d writes in an hour in which nothing changed", more)
		}
		if pulls, lookups := b.puller.count(); pulls != 1 || lookups != 0 {
			t.Errorf("%d pulls and %d lookups of a pinned model", pulls, lookups)
		}
		if b.store.beats < 100 {
			t.Errorf("%d heartbeats in an hour", b.store.beats)
		}
	})
}

func TestLoopUnlabelsConfirmsThenRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		// The API server goes away while the list loses the model: the label
		// cannot go, so the bytes must not.
		b.cluster.set(func() { b.cluster.away = errors.New("connection refused") })
		b.write("models: []\n" + fast)
		after(2 * time.Minute)
		if len(b.store.models) != 1 {
			t.Fatal("removed what the Node still promises")
		}
		b.cluster.set(func() { b.cluster.away = nil })
		after(25 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "" {
			t.Errorf("the label is %q soon after the API server is back", got)
		}
		after(15 * time.Second)
		if len(b.store.models) != 0 {
			t.Error("not removed after the grace period")
		}
		if n := b.cluster.told(EventModelEvicted); n != 1 {
			t.Errorf("ModelEvicted was told %d times", n)
		}
	})
}

func TestLoopRepairsOnlyWhatIsUnlabelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		b.puller.set(func() { b.puller.takes = 20 * time.Second })
		b.store.set(func() { b.store.bad["a"] = fmt.Errorf("model.safetensors is missing: %w", store.ErrCorrupt) })
		after(8 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "" {
			t.Errorf("the label is %q though a file is missing", got)
		}
		if n := b.cluster.told(EventModelCorrupt); n != 1 {
			t.Errorf("ModelCorrupt was told %d times", n)
		}
		after(25 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q after the repair", got)
		}
		if pulls, _ := b.puller.count(); pulls != 2 {
			t.Errorf("%d pulls, want the first and the repair", pulls)
		}
	})
}

func TestLoopRestartNeverDropsATrueLabel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		before := b.cluster.view.Labels
		b.stop()
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Fatalf("the label is %q after a stop", got)
		}
		// The disk is slow after the restart: nothing may be said until it has
		// answered, and then the same.
		hang := make(chan struct{})
		b.store.set(func() { b.store.hang = hang })
		writes := b.cluster.count()
		b.make()
		b.start()
		after(3 * time.Second)
		if n := b.cluster.count() - writes; n != 0 {
			t.Errorf("%d writes before the store has answered", n)
		}
		b.store.set(func() { b.store.hang = nil })
		close(hang)
		after(10 * time.Second)
		for k, v := range before {
			if got := b.cluster.label(k); got != v {
				t.Errorf("%s was %q before the restart and is %q after it", k, v, got)
			}
		}
		if n := b.cluster.told(EventModelWarm); n != 1 {
			t.Errorf("ModelWarm was told %d times: a restart is no news", n)
		}
	})
}

// A volume that hangs before the agent has ever seen it: pods cannot read it
// either, so what an earlier run said must not stand for ever.
func TestLoopStoreThatHangsFromTheStartTakesLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		b.stop()
		hang := make(chan struct{})
		b.store.set(func() { b.store.hang = hang })
		b.make()
		b.start()
		after(20 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "" {
			t.Errorf("the label is %q though the store never answered", got)
		}
		if err := b.agent.healthy(time.Now()); err != nil {
			t.Errorf("the loop stands: %v", err)
		}
		b.store.set(func() { b.store.hang = nil })
		close(hang)
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q after the store is back", got)
		}
		if pulls, _ := b.puller.count(); pulls != 1 {
			t.Errorf("%d pulls: the model was there all the time", pulls)
		}
	})
}

// GPUs that the container has lost come back with a new one only.
func TestLoopLostContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		healthy := func(when string, want bool) {
			t.Helper()
			if err := b.agent.healthy(time.Now()); (err == nil) != want {
				t.Errorf("%s: %v", when, err)
			}
		}
		gone := fmt.Errorf("initialize NVML: %w", gpu.ErrUnknown)
		b.devices.set(nil, gone)
		b.start()
		after(5 * time.Second)
		healthy("NVML has never worked here", true)
		b.devices.set(devices(79), nil)
		after(5 * time.Second)
		healthy("NVML works", true)
		b.devices.set(nil, gone)
		after(5 * time.Second)
		healthy("the container has lost its GPUs", false)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the weights are labelled %q", got)
		}
		b.devices.set(nil, gpu.ErrNoDriver)
		after(5 * time.Second)
		healthy("the driver is away", true)
		b.devices.set(devices(79), nil)
		after(5 * time.Second)
		healthy("the driver is back", true)
	})
}

func TestLoopHangingStoreTakesLabelsNotTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		hang := make(chan struct{})
		b.store.set(func() { b.store.hang = hang })
		after(12 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "" {
			t.Errorf("the label is %q while the store does not answer", got)
		}
		if got := b.cluster.label(IdleLabel); got == "" {
			t.Error("the GPUs' labels went with the store's")
		}
		if err := b.agent.healthy(time.Now()); err != nil {
			t.Errorf("the loop stands: %v", err)
		}
		writes := b.cluster.count()
		after(10 * time.Minute)
		if n := b.cluster.count() - writes; n > 1 {
			t.Errorf("%d writes while nothing changed", n)
		}
		b.store.set(func() { b.store.hang = nil })
		close(hang)
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q after the store is back", got)
		}
	})
}

func TestLoopBacksOffAndStartsAtOnceWhenTheEntryChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		refused := &fetcher.Error{Kind: fetcher.ErrRefused, Op: "list files", Origin: "hf://org/a", Err: errors.New("404"), Hint: "check the name"}
		b.puller.set(func() { b.puller.err, b.puller.takes = refused, 0 })
		b.start()
		after(2 * time.Minute)
		pulls, _ := b.puller.count()
		// 1, 2, 4 and then 8 s, each less at most half.
		if pulls < 15 || pulls > 40 {
			t.Errorf("%d attempts in two minutes", pulls)
		}
		st := b.store.status("a")
		if st.Code != store.CodeRefused || !strings.Contains(st.Reason, "404") || st.Hint != "check the name" {
			t.Errorf("those who wait read %+v", st)
		}
		if n := b.cluster.told(EventModelPullFailed); n == 0 || n > 4 {
			t.Errorf("%d writes of a repeated event in two minutes", n)
		}
		b.puller.set(func() { b.puller.err = nil })
		b.write(strings.Replace(oneModel, "name: a,", "name: a, endpoint: 'http://mirror',", 1) + fast)
		after(3 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q, want the changed entry tried at once", got)
		}
	})
}

// Uninstalling the release removes what names it.
func TestLoopNamesItsRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		if !strings.Contains(b.cluster.view.Status, `"release":"ns/rel"`) {
			t.Errorf("the annotation does not say whose it is: %s", b.cluster.view.Status)
		}
	})
}

func TestLoopBadListKeepsTheLastGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		b.write("models: [{name: A!, source: nonsense}]")
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("a bad list took the label: %q", got)
		}
		if n := b.cluster.told(EventListRejected); n != 1 {
			t.Errorf("ListRejected was told %d times", n)
		}
		if !strings.Contains(b.cluster.view.Status, `"rejected":"`) {
			t.Errorf("the annotation does not say it: %s", b.cluster.view.Status)
		}
		b.stop()
		b.make() // as after a restart, with the bad file still there
		b.start()
		after(30 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("a restart with a bad list took the label: %q", got)
		}
		b.write(oneModel + fast)
		after(3 * time.Second)
		if strings.Contains(b.cluster.view.Status, `"rejected":"`) {
			t.Error("the annotation still calls the list rejected")
		}
	})
}

func TestLoopWritesAgainWhatSomebodyRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.start()
		after(5 * time.Second)
		b.cluster.set(func() { delete(b.cluster.view.Labels, WarmPrefix+"a") })
		after(12 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q, want it written again", got)
		}
	})
}

func TestLoopFollowsAMovingRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: [{name: a, source: 'hf://org/a@main', refresh: 1m}]\n"+fast)
		b.start()
		after(5 * time.Second)
		next := strings.Repeat("b", 40)
		b.puller.set(func() { b.puller.revision, b.puller.takes = next, 30*time.Second })
		gone := 0
		for range 100 {
			after(time.Second)
			if b.cluster.label(WarmPrefix+"a") != "disk" {
				gone++
			}
		}
		if gone > 0 {
			t.Errorf("the label was away for %d s of an update", gone)
		}
		if got := b.cluster.label(RevPrefix + "a"); got != next[:12] {
			t.Errorf("the revision is %q after the update", got)
		}
		after(30 * time.Second)
		if n := len(b.store.models["a"]); n != 1 {
			t.Errorf("%d revisions are left after the grace period", n)
		}
	})
}

// A disk that does not let an old revision go is left alone for longer and
// longer, and takes nothing from the model.
func TestLoopBacksOffFromAnOldRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: [{name: a, source: 'hf://org/a@main', refresh: 1m}]\n"+fast)
		b.start()
		after(5 * time.Second)
		b.store.set(func() { b.store.stuck = errors.New("input/output error") })
		b.puller.set(func() { b.puller.revision = strings.Repeat("b", 40) })
		after(5 * time.Minute)
		var tries int
		b.store.set(func() { tries = b.store.prunes })
		if tries < 10 || tries > 100 {
			t.Errorf("%d tries to remove an old revision", tries)
		}
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q", got)
		}
		if text := b.store.status("a"); text.State != string(StateWarm) || text.Reason != "" {
			t.Errorf("it is said to be %+v", text)
		}
		b.store.set(func() { b.store.stuck = nil })
		after(20 * time.Second)
		if n := len(b.store.models["a"]); n != 1 {
			t.Errorf("%d revisions are left", n)
		}
	})
}

func TestLoopMissingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.cluster.missing = true
		b.start()
		after(time.Minute)
		if b.cluster.count() != 0 || b.agent.isReady() == nil {
			t.Error("something was said about a Node that does not exist")
		}
		b.cluster.set(func() { b.cluster.missing, b.cluster.view.UID = false, "uid-2" })
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("the label is %q after the Node was made", got)
		}
	})
}

func TestLoopWithoutGPUsStillLabelsWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, oneModel+fast)
		b.devices.err = errors.New("no driver")
		b.start()
		after(5 * time.Second)
		if got := b.cluster.label(WarmPrefix + "a"); got != "disk" {
			t.Errorf("warm is %q", got)
		}
		if got := b.cluster.label(IdleLabel); got != "" {
			t.Errorf("idle is %q though no GPU can be read", got)
		}
		if !strings.Contains(b.cluster.view.Status, "no driver") {
			t.Errorf("the annotation does not say why: %s", b.cluster.view.Status)
		}
	})
}

func TestLoopGPUJitterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: []\nintervals: {observe: 1s, gpu: 60s}\n")
		b.start()
		after(5 * time.Second)
		writes := b.cluster.count()
		for i := range 600 {
			free := uint64(20 + 40*(i%2))
			b.devices.mu.Lock()
			b.devices.list = devices(free, free)
			b.devices.mu.Unlock()
			after(time.Second)
		}
		if n := b.cluster.count() - writes; n > 10 {
			t.Errorf("%d writes in ten minutes, want at most one a minute", n)
		}
	})
}

// What the loop does with a leak: an event, the annotation, and both again when
// it is over; a restart in between repeats nothing and forgets nothing.
func TestLoopTellsLeaksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: []\n"+fast)
		b.start()
		told := func() int {
			t.Helper()
			var status NodeStatus
			var text string
			b.cluster.set(func() { text = b.cluster.view.Status })
			if err := json.Unmarshal([]byte(text), &status); err != nil {
				t.Fatal(err)
			}
			return len(status.GPUs.Leaks)
		}
		after(10 * time.Minute)
		if told() != 0 || b.cluster.told(EventGPUMemoryLeaked) != 0 {
			t.Error("a leak was told while a pod has a GPU")
		}
		b.cluster.set(func() { b.cluster.here = nil })
		after(55 * time.Second)
		if told() != 0 {
			t.Error("a leak was told too early")
		}
		after(15 * time.Second)
		if told() != 1 || b.cluster.told(EventGPUMemoryLeaked) != 1 {
			t.Errorf("%d leaks told, %d events; want one", told(), b.cluster.told(EventGPUMemoryLeaked))
		}
		if !strings.Contains(page(t, b.agent), `stoker_gpu_leaked_bytes{index="1",mig="",uuid=""} 4.294967296e+10`) {
			t.Error("the metric does not say it")
		}
		b.stop()
		b.make()
		b.start()
		after(20 * time.Second)
		if told() != 1 {
			t.Errorf("%d leaks told after a restart", told())
		}
		b.devices.mu.Lock()
		b.devices.list = devices(79, 79)
		b.devices.mu.Unlock()
		after(10 * time.Second)
		if told() != 0 || b.cluster.told(EventGPUMemoryLeaked) != 1 || b.cluster.told(EventGPUMemoryFreed) != 1 {
			t.Errorf("%d leaks told after it was over, %d events of it and %d of its end", told(),
				b.cluster.told(EventGPUMemoryLeaked), b.cluster.told(EventGPUMemoryFreed))
		}
	})
}

// A clock that is set back puts what was written down into the future: a moving
// revision is still looked up, and what nobody wants still goes.
func TestLoopAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "models: [{name: a, source: 'hf://org/a@main', refresh: 1h}]\n"+fast)
		b.start()
		after(5 * time.Second)
		b.stop()
		data, err := json.Marshal(memory{Version: 1, Models: map[string]modelMemory{
			"a":    {LookedUp: time.Now().Add(48 * time.Hour)},
			"gone": {Unwanted: time.Now().Add(48 * time.Hour)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.store.AgentFile(memoryFile), data, 0o644); err != nil {
			t.Fatal(err)
		}
		b.store.set(func() {
			b.store.models["gone"] = []store.Manifest{{Name: "gone", Source: "hf://org/gone@" + commit, Revision: commit}}
		})
		_, before := b.puller.count()
		b.make()
		b.start()
		after(2 * time.Hour)
		if _, lookups := b.puller.count(); lookups == before {
			t.Error("the moving revision was not looked up again")
		}
		b.store.mu.Lock()
		_, here := b.store.models["gone"]
		b.store.mu.Unlock()
		if here {
			t.Error("what nobody wants is still there")
		}
	})
}
