package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

func TestProbeIsUnknownWhileACallIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		release := make(chan struct{})
		p := newProbe("the disk", func() {}, &wg, func(context.Context, func()) (int, error) {
			<-release // as a system call on a dead volume: it honours no context
			return 7, nil
		})
		p.start(t.Context(), time.Second, false)
		if got := p.latest(); got.answered() {
			t.Errorf("answered %+v before the call returned", got)
		}
		time.Sleep(2 * time.Second)
		got := p.latest()
		if got.Known || !errors.Is(got.Err, errStuck) {
			t.Errorf("got %+v, want unknown", got)
		}
		if p.due(time.Now(), time.Second) {
			t.Error("a second call would pile up behind the stuck one")
		}
		close(release)
		wg.Wait()
		if got := p.latest(); !got.Known || got.Value != 7 || got.Gen != 1 {
			t.Errorf("got %+v after the call returned", got)
		}
	})
}

// A process that was paused in the middle of a call has not waited for it: what was
// known before is known.
func TestProbeDoesNotCountAPauseOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		release := make(chan struct{}, 1)
		p := newProbe("the disk", func() {}, &wg, func(context.Context, func()) (int, error) {
			<-release
			return 7, nil
		})
		release <- struct{}{}
		p.start(t.Context(), time.Second, false)
		wg.Wait()
		p.start(t.Context(), time.Second, false)
		// As if the clock had gone on, and no timer of this process had fired.
		p.mu.Lock()
		p.started, p.counted = p.started.Add(-time.Hour), p.counted.Add(-time.Hour)
		p.mu.Unlock()
		time.Sleep(300 * time.Millisecond)
		if got := p.latest(); !got.Known || got.Value != 7 {
			t.Errorf("got %+v after a pause, want what was known before", got)
		}
		time.Sleep(2 * time.Second)
		if got := p.latest(); got.Known || !errors.Is(got.Err, errStuck) {
			t.Errorf("got %+v of a call that is stuck", got)
		}
		release <- struct{}{}
		wg.Wait()
	})
}

func TestProbeSeesWhatHappenedDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		calls := 0
		p := newProbe("the disk", func() {}, &wg, func(context.Context, func()) (int, error) {
			calls++
			time.Sleep(time.Second)
			return calls, nil
		})
		p.start(t.Context(), time.Minute, false)
		time.Sleep(500 * time.Millisecond)
		fresh := p.next() // something changed while the first call runs
		p.start(t.Context(), time.Minute, true)
		time.Sleep(600 * time.Millisecond)
		if got := p.latest(); got.Gen >= fresh {
			t.Errorf("the call that ran during the change counts as fresh: %+v", got)
		}
		wg.Wait()
		if got := p.latest(); got.Gen < fresh || got.Value != 2 {
			t.Errorf("got %+v, want a second look", got)
		}
	})
}

func TestProbeProgressIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		p := newProbe("the disk", func() {}, &wg, func(ctx context.Context, beat func()) (int, error) {
			for range 10 {
				time.Sleep(900 * time.Millisecond)
				if ctx.Err() != nil {
					return 0, ctx.Err()
				}
				beat()
			}
			return 1, nil
		})
		p.start(t.Context(), time.Second, false)
		wg.Wait()
		if got := p.latest(); !got.Known {
			t.Errorf("nine seconds of steady progress under a bound of one: %+v", got)
		}
	})
}

func TestRecorderCountsRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var wrote []string
		write := func(_ context.Context, e eventWrite) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			wrote = append(wrote, fmt.Sprintf("%s %q x%d", e.Note, e.Name, e.Count))
			return "name-1", nil
		}
		failed404 := event{Reason: EventModelPullFailed, Subject: "a", Action: "Pull", Note: "404", Warning: true}
		r := newRecorder(write, func(bool) {}, redact, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.run(ctx, func() time.Duration { return time.Second })
		}()
		r.record(failed404)
		synctest.Wait()
		if len(wrote) != 0 {
			t.Errorf("wrote %v about a Node that is not known", wrote)
		}
		r.regarding("uid")
		synctest.Wait()
		time.Sleep(500 * time.Millisecond) // never at the instant of a write
		for range 120 {
			r.record(failed404)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		cancel()
		<-done
		want := []string{`a: 404 "" x1`, `a: 404 "name-1" x61`, `a: 404 "name-1" x121`}
		if diff := cmp.Diff(want, wrote); diff != "" {
			t.Errorf("writes differ (-want +got):\n%s", diff)
		}
	})
}

func TestRecorderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil, func(bool) {}, redact, slog.New(slog.DiscardHandler))
		for i := range 10 * maxSeries {
			r.record(event{Reason: EventModelPullFailed, Subject: fmt.Sprintf("model %d", i)})
		}
		if n := len(r.series); n > maxSeries {
			t.Errorf("%d series wait", n)
		}
		// A text that changes all the time is one event a minute.
		r = newRecorder(nil, func(bool) {}, redact, slog.New(slog.DiscardHandler))
		texts := map[string]bool{}
		for i := range 300 {
			r.record(event{Reason: EventModelPullFailed, Subject: "a", Note: fmt.Sprintf("request %d", i)})
			for _, s := range r.series {
				texts[s.Note] = true
			}
			time.Sleep(time.Second)
		}
		if n := len(texts); n != 5 {
			t.Errorf("%d events in five minutes", n)
		}
		r.record(event{Reason: "R", Note: strings.Repeat("ä", 2000)})
		for _, s := range r.series {
			if len(s.Note) > maxNote {
				t.Errorf("a note of %d bytes", len(s.Note))
			}
		}
	})
}

func TestSayerKeepsItsIntervals(t *testing.T) {
	iv := Intervals{LabelWrites: 2 * time.Second, Progress: 30 * time.Second, RetryMin: time.Second, RetryMax: time.Hour}
	var s sayer
	first := said{labels: map[string]string{"k": "1"}, state: "s1", progress: "p1"}
	if due, _ := s.due(noon, first, iv); !due {
		t.Fatal("the first word waits")
	}
	s.begin(noon)
	if due, _ := s.due(noon.Add(time.Hour), first, iv); due {
		t.Error("two writes at once")
	}
	s.end(noon, first, nil, iv, 0)
	if due, at := s.due(noon.Add(time.Hour), first, iv); due || !at.IsZero() {
		t.Error("a write though nothing changed")
	}
	changed := said{labels: map[string]string{"k": "2"}, state: "s1", progress: "p1"}
	if due, at := s.due(noon.Add(time.Second), changed, iv); due || !at.Equal(noon.Add(2*time.Second)) {
		t.Errorf("changed state is due %v at %v, want 2 s after the last write", due, at)
	}
	moved := said{labels: first.labels, state: "s1", progress: "p2"}
	if due, at := s.due(noon.Add(10*time.Second), moved, iv); due || !at.Equal(noon.Add(30*time.Second)) {
		t.Errorf("progress is due %v at %v, want 30 s after the last write", due, at)
	}
	s.begin(noon)
	for range 20 {
		s.end(noon, changed, errors.New("away"), iv, 0.99)
	}
	if _, at := s.due(noon, changed, iv); at.Sub(noon) > maxAPIWait || at.Sub(noon) < maxAPIWait/2 {
		t.Errorf("after many failures the next try is in %s", at.Sub(noon))
	}
}

func TestBackoff(t *testing.T) {
	iv := Intervals{RetryMin: 5 * time.Second, RetryMax: 10 * time.Minute}
	for n, want := range map[int]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 8: 10 * time.Minute, 1000: 10 * time.Minute} {
		if low, high := backoff(iv, n, 0), backoff(iv, n, 1); low != want/2 || high != want {
			t.Errorf("backoff(%d) is %s to %s, want up to %s", n, low, high, want)
		}
	}
}

func TestFailureOf(t *testing.T) {
	busy := &fetcher.Error{Kind: fetcher.ErrNoSpace, Op: "reserve", Err: &NoRoom{Need: 5, Busy: true}}
	for name, c := range map[string]struct {
		err   error
		state State
		code  string
	}{
		"refused":              {fmt.Errorf("pull x: %w", &fetcher.Error{Kind: fetcher.ErrRefused}), StateFailed, store.CodeRefused},
		"no room":              {&fetcher.Error{Kind: fetcher.ErrNoSpace, Err: &NoRoom{Need: 5}}, StateSkipped, store.CodeNoRoom},
		"the disk is full":     {fmt.Errorf("write: %w", store.ErrNoSpace), StateSkipped, store.CodeNoRoom},
		"room is promised now": {busy, StateSkipped, ""},
		"passing":              {&fetcher.Error{Kind: fetcher.ErrTransient}, StateFailed, ""},
	} {
		f, _ := failureOf(c.err)
		if f.State != c.state || f.Code != c.code {
			t.Errorf("%s: got %+v", name, f)
		}
		if f.Code == store.CodeNoRoom && f.Hint == "" {
			t.Errorf("%s: it does not say what to do: %+v", name, f)
		}
	}
	if _, d := failureOf(&fetcher.Error{Kind: fetcher.ErrThrottled, RetryAfter: time.Hour}); d != time.Hour {
		t.Errorf("the source asked for an hour, got %s", d)
	}
}

func TestAdmission(t *testing.T) {
	usage := store.Usage{FreeBytes: 500, TotalBytes: 1000, StoreBytes: 300}
	a := NewAdmission(func() (store.Usage, error) { return usage, nil }, StoreConfig{Reserve: Share{Percent: 20}})
	refused := func(ctx context.Context, need int64) *NoRoom {
		t.Helper()
		err := a.Admit(ctx, need)
		if err == nil {
			return nil
		}
		var room *NoRoom
		if !errors.Is(err, fetcher.ErrNoSpace) || !errors.As(err, &room) || fetcher.Hint(err) == "" {
			t.Fatalf("a refusal should be ErrNoSpace with sizes and a hint, got %v", err)
		}
		return room
	}
	if got := refused(t.Context(), 300); got != nil {
		t.Errorf("300 of 300 refused: %v", got)
	}
	if got := refused(t.Context(), 301); got == nil || got.Room != 300 || got.Busy {
		t.Errorf("301 of 300: %+v", got)
	}
	first, r, end := a.begin(t.Context())
	if got := refused(first, 250); got != nil {
		t.Fatal(got)
	}
	if got := refused(t.Context(), 100); got == nil || !got.Busy || got.Room != 50 {
		t.Errorf("what is promised to another pull was given away: %+v", got)
	}
	r.progress(200)
	usage.FreeBytes -= 200
	if got := refused(t.Context(), 50); got != nil {
		t.Errorf("what has arrived is counted twice: %v", got)
	}
	end()
	if got := refused(t.Context(), 100); got != nil {
		t.Errorf("a pull that ended still holds room: %v", got)
	}
	a.configure(StoreConfig{Quota: 350})
	if got := refused(t.Context(), 51); got == nil || !strings.Contains(got.Error(), "quota") {
		t.Errorf("over the quota: %+v", got)
	}
}

// The annotation is read by other programs: its names are a contract.
func TestStatusGolden(t *testing.T) {
	resident, reading := warmModel("in-ram", 1), warmModel("reading", 1)
	resident.Bytes, resident.Resident, resident.Tier, resident.RAMState = 1000, 990, TierRAM, RAMResident
	reading.Bytes, reading.Resident, reading.RAMState, reading.NotInRAM = 1000, 420, RAMReading, "it is being read into memory"
	models := []modelState{
		warmModel("warm", 1), resident, reading,
		{
			Name: "pulling", Listed: true, State: StatePulling, Pods: 1, Model: Model{Source: source(t, "hf://org/pulling@main")},
			Progress: &pulling{Done: 100, Total: 1100, Rate: 50},
		},
		{Name: "failed", State: StateFailed, Reason: "refused: token hf_abcdefgh", Hint: "accept the licence", Code: store.CodeRefused, Next: noon},
	}
	g := gpuFacts{Known: true, Devices: devices(79, 40), Free: 1, FreeKnown: true}
	st := answer[storeView]{Known: true, Value: storeView{Usage: store.Usage{StoreBytes: 1, FreeBytes: 2, TotalBytes: 3}}}
	leak := LeakStatus{Index: 1, UUID: "GPU-1", Bytes: 40 * gib, Since: noon.Unix()}
	status := describe(models, wordOf(models, g, []LeakStatus{leak}), st, measuredSpeed{Rate: 100, At: noon})
	status.Time, status.Agent, status.Release, status.List = noon, "v1", "stoker/stoker", ListStatus{Models: 3, Rejected: "models: null"}
	var indented strings.Builder
	enc := json.NewEncoder(&indented)
	enc.SetIndent("", "  ")
	if err := enc.Encode(status); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", indented.String())
}

// addresses are compared as values.
var addresses = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func TestPodsKeepLittle(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	gpus := func(n string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(n + "Gi"), corev1.ResourceCPU: resource.MustParse("1")},
			Limits:   corev1.ResourceList{gpuResource: resource.MustParse(n), corev1.ResourceCPU: resource.MustParse("4")},
		}
	}
	full := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{ModelLabel: "m"},
			Annotations:   map[string]string{"secret": "x", AdaptersAnnotation: " sql, ,../x,chat,"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
		},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{
				{
					Name: "a", Env: []corev1.EnvVar{{Name: "TOKEN", Value: "x"}}, Resources: gpus("2"), Image: "registry.example/hidden:v0.33.1-cu130",
					Command: []string{"vllm", "serve"}, Args: []string{"/stoker/model", "--api-key=KEY", "-tp", "2"},
					Ports: []corev1.ContainerPort{{Name: "grpc", ContainerPort: 1}, {Name: "http", ContainerPort: 8080}},
				},
				{Name: "b", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"nvidia.com/mig-1g.5gb": resource.MustParse("1")}}},
			},
			InitContainers: []corev1.Container{
				{Name: "side", RestartPolicy: &always, Resources: gpus("1")},
				{Name: "init", Resources: gpus("4")},
			},
			Overhead: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi"), corev1.ResourceCPU: resource.MustParse("1m")},
			Volumes: []corev1.Volume{
				{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}},
				{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName}}},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1", HostIP: "192.0.2.1", Message: "hidden",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon), Message: "hidden"},
				{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon.Add(-time.Minute))},
			},
		},
	}
	kept, err := keepLittle(full)
	if err != nil {
		t.Fatal(err)
	}
	small, ok := kept.(*corev1.Pod)
	if !ok {
		t.Fatalf("got a %T", kept)
	}
	b, err := json.Marshal(small)
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"TOKEN", "secret", "KEY", "hidden", "grpc", "managedFields"} {
		if strings.Contains(string(b), no) {
			t.Errorf("%s is kept: %s", no, b)
		}
	}
	want := pod{UID: "u", Phase: corev1.PodRunning, Labels: map[string]string{ModelLabel: "m"}, Adapters: []string{"sql", "chat"}, GPUs: 5, Memory: 5<<30 + 1<<20, Claims: []string{claimName}, GPUParts: true}
	want.Replica = &replicaPod{
		Namespace: "ns", Address: netip.MustParseAddrPort("10.0.0.1:8080"), NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		ReadyAt: noon, InitializedAt: noon.Add(-time.Minute), Split: []string{"--tensor-parallel-size=2"}, VLLMVersion: "0.33.1",
	}
	if diff := cmp.Diff(want, podOf(small), addresses); diff != "" {
		t.Errorf("what is kept differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(podOf(full), podOf(small), addresses); diff != "" {
		t.Errorf("keeping little changed what is read (-full +small):\n%s", diff)
	}
	for name, change := range map[string]func(p *corev1.Pod){
		"no model":             func(p *corev1.Pod) { p.Labels = nil },
		"the node's network":   func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"pending":              func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"not ready":            func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse },
		"not initialized":      func(p *corev1.Pod) { p.Status.Conditions = p.Status.Conditions[:1] },
		"no address":           func(p *corev1.Pod) { p.Status.PodIP = "" },
		"two of GPUs":          func(p *corev1.Pod) { p.Spec.Containers[1].Resources = gpus("1") },
		"none with whole GPUs": func(p *corev1.Pod) { p.Spec.Containers = p.Spec.Containers[1:] },
	} {
		p := full.DeepCopy()
		change(p)
		kept, err := keepLittle(p)
		if small, ok := kept.(*corev1.Pod); err != nil || !ok || podOf(small).Replica != nil || podOf(p).Replica != nil {
			t.Errorf("%s: it is a replica to ask", name)
		}
	}
	full.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("9Gi")}}
	full.Annotations[AdaptersAnnotation] = strings.Repeat("a,", MaxAdapters+1)
	if n := len(podOf(full).Adapters); n != MaxAdapters {
		t.Errorf("a pod has %d adapters, want %d at most", n, MaxAdapters)
	}
	whole, err := keepLittle(full)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := whole.(*corev1.Pod); !ok || podOf(p).Memory != 9<<30+1<<20 {
		t.Errorf("a pod that asks for 9 GiB as a whole counts as %+v", whole)
	}
}
