package sweep

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycoordinationv1 "k8s.io/client-go/applyconfigurations/coordination/v1"

	"github.com/stoker-project/stoker/agent/sweep"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// One control plane serves all tests, each with nodes of its own.
func TestSweep(t *testing.T) {
	b := newBench(t, cluster.Options{})
	for _, test := range []struct {
		name string
		run  func(b *bench)
	}{
		{"the chart's sweeper takes a dead agent's labels", testDeadAgent},
		{"a node that is no longer selected loses its labels", testUnselected},
		{"the chart's sweeper leaves other releases alone", testOtherReleasesNode},
		{"an agent that is back in time keeps its labels", testBackInTime},
		{"an agent that returns at the last moment wins", testConflict},
		{"an outage of the API server starts the clocks again", testOutage},
		{"the sweeper's account can only remove", testPolicy},
		{"the policy holds without RBAC", testPolicyAlone},
		{"a claim that is made again binds its volume again", testVolumes},
		{"the sweeper's account can only free its volumes", testVolumePolicy},
		{"a hook that is applied with everything else takes nothing back", testHookAtInstall},
		{"the hook removes everything", testUnlabel},
		{"the hook leaves other releases alone", testOtherRelease},
		{"unlabel says what it cannot do", testUnlabelFails},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) { test.run(b.on(t)) })
	}
}

// The arguments, account and rights are the chart's.
func testDeadAgent(b *bench) {
	b.node("dead-agent")
	b.ready("dead-agent", true)
	before, steady := b.get("dead-agent"), b.get("steady")
	stop, log := b.startChartSweeper()
	b.wait("the sweeper to be ready", func(context.Context) (bool, error) { return strings.Contains(log(), "serve metrics"), nil })
	died := time.Now()
	b.ready("dead-agent", false)
	b.waitBare("dead-agent")
	if took := time.Since(died); took < timeout-time.Second {
		b.Errorf("the labels went after %s, before the timeout", took)
	}
	after := b.get("dead-agent")
	for key := range keysOf(before) {
		delete(before.Labels, key)
		delete(before.Annotations, key)
	}
	for _, n := range []*corev1.Node{before, after} {
		n.ManagedFields, n.ResourceVersion = nil, ""
	}
	if diff := cmp.Diff(before, after); diff != "" {
		b.Errorf("more than the agent's keys changed, -before +after\n%s", diff)
	}
	if now := b.get("steady"); now.ResourceVersion != steady.ResourceVersion {
		b.Errorf("another node was written: %s", cmp.Diff(steady, now))
	}
	e := b.waitEvent("dead-agent", sweep.EventLabelsWithdrawn)
	if e.Regarding.UID != after.UID || e.Type != corev1.EventTypeNormal || !strings.Contains(e.Note, "removed 5 labels and 1 annotations") {
		b.Errorf("the event is %+v", e)
	}
	stop()
	if text := log(); strings.Contains(text, "forbidden") {
		b.Errorf("the sweeper asked for what the chart's RBAC does not give:\n%s", text)
	}
}

func (b *bench) waitEvent(node, reason string) eventsv1.Event {
	b.Helper()
	var found eventsv1.Event
	b.wait("event "+reason, func(ctx context.Context) (bool, error) {
		events, err := b.client.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, e := range events.Items {
			if e.Reason == reason && e.Regarding.Kind == "Node" && e.Regarding.Name == node {
				found = e
				return true, nil
			}
		}
		return false, nil
	})
	return found
}

// startChartSweeper runs the real binary as the chart's Deployment would. stop
// ends it as a kubelet would.
func (b *bench) startChartSweeper() (stop func(), log func() string) {
	b.Helper()
	objs, err := charts.Render([]byte(values), release, namespace)
	if err != nil {
		b.Fatal(err)
	}
	var args []string
	for _, obj := range objs {
		if obj.GetKind() == "Deployment" {
			args = containerArgs(b, obj)
		}
	}
	for i := range args {
		args[i] = strings.Replace(args[i], "--listen=:1", "--listen=127.0.0.1:0", 1)
	}
	output := &syncBuffer{}
	cmd := exec.Command(b.binary(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+b.kubeconfig(sweeper))
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Errorf("the sweeper ended with %v:\n%s", err, output.String())
		}
	})
	b.Cleanup(func() {
		stop()
		if b.Failed() {
			b.Logf("the sweeper's log:\n%s", output.String())
		}
	})
	return stop, output.String
}

type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// A kubelet that is gone: the real node controller says so of the node, and of
// its pods that they are not ready. Another node's kubelet lives.
func TestDeadNode(t *testing.T) {
	b := newBench(t, cluster.Options{NodeGrace: 20 * time.Second})
	b.node("dead-node")
	b.ready("dead-node", true)
	b.beat("steady")
	b.sweep(b.as(sweeper))
	b.waitBare("dead-node")
	for _, c := range b.get("dead-node").Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionUnknown {
			t.Errorf("the node is ready: %s", c.Status)
		}
	}
	b.untouched("steady")
}

// beat renews a node's Lease as its kubelet would, until the test ends.
func (b *bench) beat(name string) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	leases := b.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	cfg := applycoordinationv1.Lease(name, corev1.NamespaceNodeLease).
		WithSpec(applycoordinationv1.LeaseSpec().WithHolderIdentity(name).WithLeaseDurationSeconds(40))
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for ctx.Err() == nil {
			cfg.Spec.WithRenewTime(metav1.NowMicro())
			if _, err := leases.Apply(ctx, cfg, metav1.ApplyOptions{FieldManager: "kubelet", Force: true}); err != nil && ctx.Err() == nil {
				b.Errorf("renew the lease of %s: %v", name, err)
				return
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	b.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// The DaemonSet no longer matches: its controller takes the pod away.
func testUnselected(b *bench) {
	b.node("unselected")
	b.ready("unselected", true)
	b.sweep(b.as(sweeper))
	pod := b.pod("unselected")
	if _, err := b.client.CoreV1().Nodes().Patch(b.Context(), "unselected", types.MergePatchType, []byte(`{"metadata":{"labels":{"nvidia.com/gpu.present":null}}}`), metav1.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	b.wait("the DaemonSet's pod to be deleted", func(ctx context.Context) (bool, error) {
		p, err := b.client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		return err == nil && p.DeletionTimestamp != nil, err
	})
	// A kubelet would end it.
	if err := b.client.CoreV1().Pods(namespace).Delete(b.Context(), pod.Name, *metav1.NewDeleteOptions(0)); err != nil {
		b.Fatal(err)
	}
	b.waitBare("unselected")
	b.untouched("steady")
}

// Two nodes without a ready agent of this release: of one the annotation names another.
func testOtherReleasesNode(b *bench) {
	const own, other = `{"version":1,"release":"` + namespace + "/" + release + `"}`, `{"version":1,"release":"elsewhere/` + release + `"}`
	b.node("own-node")
	b.node("other-node")
	b.labelOf("own-node", own)
	b.labelOf("other-node", other)
	before := b.get("other-node")
	b.startChartSweeper()
	b.waitBare("own-node")
	if after := b.get("other-node"); after.ResourceVersion != before.ResourceVersion {
		b.Errorf("the other release's node was written: %s", cmp.Diff(before, after))
	}
	b.labelOf("other-node", "{}") // none is named: as before
	b.waitBare("other-node")
}

// Another node's labels are the clock: they go later than this one's would.
func testBackInTime(b *bench) {
	b.node("back")
	b.node("gone")
	b.ready("back", true)
	b.ready("gone", true)
	b.sweep(b.as(sweeper))
	b.ready("back", false)
	b.ready("back", true)
	b.ready("gone", false)
	b.waitBare("gone")
	b.untouched("back")
	b.untouched("steady")
}

// beforePatch calls back before the first patch of a node is sent.
type beforePatch struct {
	next http.RoundTripper
	once *sync.Once
	call func()
	// answers are the status codes of patches.
	answers chan int
}

// RoundTrip implements http.RoundTripper.
func (p beforePatch) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPatch || !strings.HasPrefix(r.URL.Path, "/api/v1/nodes/") {
		return p.next.RoundTrip(r)
	}
	p.once.Do(p.call)
	resp, err := p.next.RoundTrip(r)
	if err == nil {
		p.answers <- resp.StatusCode
	}
	return resp, err
}

// The agent writes between the sweeper's last look and its patch.
func testConflict(b *bench) {
	b.node("returns")
	b.ready("returns", true)
	answers := make(chan int, 10)
	cfg := b.as(sweeper)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return beforePatch{next: next, once: &sync.Once{}, answers: answers, call: func() {
			patch := `{"metadata":{"labels":{"warm.stoker.dev/llama":"ram"}}}`
			if _, err := b.client.CoreV1().Nodes().Patch(context.WithoutCancel(b.Context()), "returns", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				b.Error(err)
			}
			b.ready("returns", true)
		}}
	})
	b.sweep(cfg)
	b.ready("returns", false)
	select {
	case code := <-answers:
		if code != http.StatusConflict {
			b.Errorf("the patch was answered with %d", code)
		}
	case <-time.After(time.Minute):
		b.Fatal("no patch was sent")
	}
	// Another node's labels go later than this one's would, had they still been due.
	b.node("clock")
	b.ready("clock", false)
	b.waitBare("clock")
	if n := b.get("returns"); n.Labels["warm.stoker.dev/llama"] != "ram" || len(keysOf(n)) != 6 {
		b.Errorf("it has %v", keysOf(n))
	}
}

func testOutage(b *bench) {
	b.node("outage")
	b.ready("outage", true)
	proxy := startProxy(b, b.cluster.RESTConfig().Host)
	cfg := b.as(sweeper)
	cfg.Host = proxy.url
	asked := &attempts{}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return counted{next, asked} })
	b.sweep(cfg)
	b.wait("an answer", func(context.Context) (bool, error) { return asked.answered.Load() > 0, nil })
	proxy.cut()
	b.ready("outage", false)
	// One question every 0.3 s: longer than the timeout, and than what counts as a silence.
	b.wait("25 questions in vain", func(context.Context) (bool, error) { return asked.failed.Load() >= 25, nil })
	b.untouched("outage")
	back := time.Now()
	proxy.mend()
	b.waitBare("outage")
	if took := time.Since(back); took < timeout {
		b.Errorf("the labels went %s after the API server came back", took)
	}
}
