package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/cluster"
)

// One control plane serves all tests, each with a Node of its own.
func TestAgent(t *testing.T) {
	c := startCluster(t)
	for name, test := range map[string]func(*testing.T, *cluster.Cluster){
		"says what is warm":                      testSaysWhatIsWarm,
		"leaves foreign keys and prunes its own": testKeys,
		"unlabels before it removes":             testUnlabelsBeforeItRemoves,
		"follows the files":                      testFollowsTheFiles,
		"keeps labels over a bad list":           testBadList,
		"keeps labels over a restart":            testRestart,
		"makes no node":                          testMissingNode,
		"writes again what was withdrawn":        testWithdrawn,
		"writes to a node of its own uid":        testRecreatedNode,
		"one failure blocks no other":            testFailureBlocksNoOther,
		"pulls what a pod here names":            testPodDemand,
		"counts gpus that pods were given":       testFitsFollowsPods,
		"knows no gpus and still labels":         testWithoutGPUs,
		"reports memory that nobody asked for":   testLeak,
		"writes little when memory jitters":      testJitter,
		"skips what would cross the quota":       testNoRoom,
		"tells those who wait on the node":       testStatusFiles,
		"writes little when nothing changes":     testFewWrites,
		"shows progress in the annotation":       testProgress,
		"takes a moving revision without a gap":  testMovingRevision,
		"keeps a revision that a pod pinned":     testOldRevisionHeld,
		"makes room for what is more important":  testMakesRoom,
		"tries again when a secret changes":      testCredentials,
		"lifts the startup taint when warm":      testStartupTaint,
		"lifts the startup taint in the end":     testStartupTaintTimeout,
		"finds what rotted":                      testRot,
		"measures replicas":                      testMeasures,
		"holds models in memory":                 testRAM,
		"estimates how long loading takes":       testLoadEstimate,
		"shows files to every pod":               testModes,
		"loses its volume and gets it back":      testVolume,
		"mends what is swapped in its store":     testSwapped,
		"gives a place for pulls back":           testStarved,
		"tries every source that hangs":          testStarvedBySeveral,
		"gives back what is throttled":           testThrottled,
		"follows new rules":                      testUpgradedRules,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { test(t, c) })
	}
}

func testSaysWhatIsWarm(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.list(fmt.Sprintf("{name: tiny, source: '%s'}", b.model("Tiny", 1)))
	b.start()
	b.waitLabel(agent.WarmPrefix+"tiny", "disk")
	m := b.modelStatus("tiny")
	want := map[string]string{
		agent.RevPrefix + "tiny": m.Revision[:12], agent.FitsPrefix + "tiny": "8",
		agent.FreeGiBLabel: "140", agent.IdleLabel: "8",
	}
	b.wait("every label", func(n *corev1.Node) bool {
		for k, v := range want {
			if n.Labels[k] != v {
				return false
			}
		}
		return true
	})
	if m.State != agent.StateWarm || m.Tier != agent.TierDisk || m.Bytes == 0 || m.Fits == nil || *m.Fits != 8 {
		t.Errorf("the annotation says %+v", m)
	}
	e := b.waitEvent(agent.EventModelWarm, anyEvent)
	if e.Type != corev1.EventTypeNormal || e.Regarding.UID != b.get().UID || !strings.Contains(e.Note, "tiny") {
		t.Errorf("the event is %+v", e)
	}
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := s.Lookup("tiny")
	if err != nil || manifest.Revision != m.Revision {
		t.Fatalf("the store has %s, the Node says %s: %v", manifest.Revision, m.Revision, err)
	}
	if res, err := s.Verify(t.Context(), manifest, nil); err != nil || len(res.Problems) > 0 {
		t.Errorf("labelled bytes do not verify: %v, %v", res.Problems, err)
	}
}

// Server-side apply under one field manager owns exactly our keys.
func testKeys(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	one, two := b.model("one", 1), b.model("two", 2)
	b.list(fmt.Sprintf("{name: one, source: '%s'}", one), fmt.Sprintf("{name: two, source: '%s'}", two))
	b.start()
	b.waitLabel(agent.WarmPrefix+"one", "disk")
	b.waitLabel(agent.WarmPrefix+"two", "disk")
	b.patch(`{"metadata":{"labels":{"team":"a","warm.example.com/one":"x"},"annotations":{"note":"mine"}}}`)
	b.list(fmt.Sprintf("{name: one, source: '%s'}", one))
	b.waitLabel(agent.WarmPrefix+"two", "")
	n := b.get()
	for _, key := range []string{agent.RevPrefix + "two", agent.FitsPrefix + "two"} {
		if v, ok := n.Labels[key]; ok {
			t.Errorf("%s=%s was left behind", key, v)
		}
	}
	if n.Labels["team"] != "a" || n.Labels["warm.example.com/one"] != "x" || n.Labels["pool"] != "gpu" || n.Annotations["note"] != "mine" {
		t.Errorf("foreign keys changed: %v %v", n.Labels, n.Annotations)
	}
	for _, f := range n.ManagedFields {
		if f.Manager != agent.FieldManager {
			continue
		}
		if f.Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("the agent wrote by %s", f.Operation)
		}
		var owned struct {
			Metadata map[string]map[string]any `json:"f:metadata"`
		}
		if err := json.Unmarshal(f.FieldsV1.GetRawBytes(), &owned); err != nil {
			t.Fatal(err)
		}
		for _, set := range owned.Metadata {
			for key := range set {
				if key != "." && !strings.Contains(key, "stoker.dev/") {
					t.Errorf("the agent owns %s", key)
				}
			}
		}
	}
	// Somebody takes a key away, and changes another: both come back.
	b.patch(fmt.Sprintf(`{"metadata":{"labels":{%q:null,%q:"0"}}}`, agent.WarmPrefix+"one", agent.FreeGiBLabel))
	b.waitLabel(agent.WarmPrefix+"one", "disk")
	b.waitLabel(agent.FreeGiBLabel, "140")
}

func (b *bench) patch(merge string) {
	b.Helper()
	if _, err := b.client.CoreV1().Nodes().Patch(b.Context(), b.node, types.MergePatchType, []byte(merge), metav1.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
}

// The check itself is in bench.onRemove: the API server is asked at the moment
// before the bytes go.
func testUnlabelsBeforeItRemoves(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	removed := make(chan string, 10)
	check := b.onRemove
	b.onRemove = func(name string) {
		check(name)
		removed <- name
	}
	b.list(fmt.Sprintf("{name: gone, source: '%s'}", b.model("gone", 1)))
	b.start()
	b.waitLabel(agent.WarmPrefix+"gone", "disk")
	b.list()
	select {
	case name := <-removed:
		if name != "gone" {
			t.Errorf("%s was removed", name)
		}
	case <-time.After(time.Minute):
		t.Fatal("not removed")
	}
	b.waitEvent(agent.EventModelEvicted, anyEvent)
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage(); err != nil || u.StoreBytes != 0 {
		t.Errorf("%d bytes are left in the store: %v", u.StoreBytes, err)
	}
}

// A file that is truncated or deleted behind the agent's back takes the label
// with it, and comes back by a pull.
func testFollowsTheFiles(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	source := b.model("frail", 1)
	b.list(fmt.Sprintf("{name: frail, source: '%s'}", source))
	b.start()
	b.waitLabel(agent.WarmPrefix+"frail", "disk")
	// The source is away, so that the label cannot come back before we look.
	dir := strings.TrimPrefix(source, "file://")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(b.storePath(), "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 3 {
		t.Fatalf("%d blobs: %v", len(blobs), err)
	}
	for i, blob := range blobs[:2] {
		if err := os.Chmod(blob, 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			err = os.Truncate(blob, 1)
		} else {
			err = os.Remove(blob)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b.waitLabel(agent.WarmPrefix+"frail", "")
	b.waitEvent(agent.EventModelCorrupt, func(e eventsv1.Event) bool { return e.Type == corev1.EventTypeWarning })
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	b.waitLabel(agent.WarmPrefix+"frail", "disk")
}

func testBadList(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	good := fmt.Sprintf("{name: good, source: '%s'}", b.model("good", 1))
	b.list(good)
	b.start()
	b.waitLabel(agent.WarmPrefix+"good", "disk")
	seen := b.watch()
	b.config("models: [{name: Bad!, source: nowhere, priority: high}, {name: x}]")
	e := b.waitEvent(agent.EventListRejected, anyEvent)
	for _, part := range []string{"Bad!", "nowhere", "high", "models[1].source"} {
		if !strings.Contains(e.Note, part) {
			t.Errorf("the event does not name %s: %s", part, e.Note)
		}
	}
	b.wait("the annotation to say so", func(*corev1.Node) bool { return strings.Contains(b.status().List.Rejected, "nowhere") })
	b.stop()
	b.start() // the file is still bad: the last good one is in the store
	b.wait("the annotation of the second agent", func(*corev1.Node) bool { return b.status().List.Models == 1 })
	seen.always(agent.WarmPrefix+"good", "disk")
	b.list(good)
	b.wait("the list to be accepted", func(*corev1.Node) bool { return b.status().List.Rejected == "" })
}

// Every change of the Node during a restart is looked at, not a sample.
func testRestart(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.list(fmt.Sprintf("{name: kept, source: '%s'}", b.model("kept", 1)))
	b.start()
	b.waitLabel(agent.WarmPrefix+"kept", "disk")
	b.waitLabel(agent.FitsPrefix+"kept", "8")
	before := b.get()
	seen := b.watch()
	for range 3 {
		b.stop()
		b.start()
		last := b.status().Time
		// The new agent has said something when the annotation is newer.
		b.patch(`{"metadata":{"annotations":{"stoker.dev/status":"{}"}}}`)
		b.wait("the restarted agent to say something", func(*corev1.Node) bool { return !b.status().Time.Before(last) && b.status().Version != 0 })
	}
	for key, value := range before.Labels {
		seen.always(key, value)
	}
	if seen.count() < 3 {
		t.Errorf("only %d changes were seen", seen.count())
	}
}

// watcher has seen every version of a Node since it began.
type watcher struct {
	b    *bench
	done func() []map[string]string
	all  []map[string]string
}

// watch begins to look at every change of the Node.
func (b *bench) watch() *watcher {
	b.Helper()
	n := b.get()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	w, err := b.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + b.node, ResourceVersion: n.ResourceVersion})
	if err != nil {
		cancel()
		b.Fatal(err)
	}
	seen := make(chan []map[string]string, 1)
	last := make(chan string, 1)
	go func() {
		var all []map[string]string
		until := ""
		for event := range w.ResultChan() {
			n, ok := event.Object.(*corev1.Node)
			if !ok {
				break
			}
			all = append(all, maps.Clone(n.Labels))
			select {
			case until = <-last:
			default:
			}
			if n.Annotations["watched-until"] != "" && n.Annotations["watched-until"] == until {
				break
			}
		}
		seen <- all
	}()
	return &watcher{b: b, done: func() []map[string]string {
		// A last change of our own says that everything before it was seen.
		mark := n.ResourceVersion
		last <- mark
		b.patch(fmt.Sprintf(`{"metadata":{"annotations":{"watched-until":%q}}}`, mark))
		defer cancel()
		defer w.Stop()
		select {
		case all := <-seen:
			return all
		case <-time.After(30 * time.Second):
			b.Fatal("the watch did not see the last change")
			return nil
		}
	}}
}

func (w *watcher) count() int {
	if w.all == nil {
		w.all = w.done()
	}
	return len(w.all)
}

// always demands that every version had the label.
func (w *watcher) always(key, value string) {
	w.b.Helper()
	for i := range w.count() {
		if got := w.all[i][key]; got != value {
			w.b.Errorf("change %d of %d: %s is %q, want %q", i+1, len(w.all), key, got, value)
		}
	}
}

func testMissingNode(t *testing.T, c *cluster.Cluster) {
	b := newBenchWithoutNode(t, c, "never-made")
	b.list()
	// A pod cannot be bound to what does not exist: the administrator's rights
	// are more than the agent has, and still nothing may be made.
	b.kubeconfig = c.KubeconfigPath
	b.start()
	err := cluster.WaitFor(t.Context(), "the agent to say that the Node is missing", func(context.Context) (bool, error) {
		return strings.Contains(b.log.String(), "there is no such Node; check --node-name"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.CoreV1().Nodes().Get(t.Context(), b.node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Node was made: %v", err)
	}
	b.addNode()
	b.waitLabel(agent.IdleLabel, "8")
}

// Another Node object of the same name is another node: it gets its labels, and
// no write that was meant for the old one makes it.
func testRecreatedNode(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.list(fmt.Sprintf("{name: again, source: '%s'}", b.model("again", 1)))
	b.kubeconfig = c.KubeconfigPath // its pod would go with the Node
	b.start()
	b.waitLabel(agent.WarmPrefix+"again", "disk")
	if err := b.client.CoreV1().Nodes().Delete(t.Context(), b.node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Something to write while there is no Node.
	b.list()
	err := cluster.WaitFor(t.Context(), "the agent to miss its Node", func(context.Context) (bool, error) {
		return strings.Contains(b.log.String(), "there is no such Node") || strings.Contains(b.log.String(), "uid"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.CoreV1().Nodes().Get(t.Context(), b.node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Node was made again by the agent: %v", err)
	}
	b.addNode()
	b.waitLabel(agent.IdleLabel, "8")
}

func testFailureBlocksNoOther(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	b.list(
		fmt.Sprintf("{name: missing, source: 'hf://no/such', endpoint: '%s', priority: 10}", hub.URL()),
		fmt.Sprintf("{name: absent, source: 'file://%s/nothing', priority: 9}", b.dir),
		fmt.Sprintf("{name: fine, source: '%s'}", b.model("fine", 1)),
	)
	b.start()
	b.waitLabel(agent.WarmPrefix+"fine", "disk")
	b.wait("the reasons", func(*corev1.Node) bool {
		return b.modelStatus("missing").State == agent.StateFailed && b.modelStatus("absent").State == agent.StateFailed
	})
	if m := b.modelStatus("missing"); m.Code != store.CodeRefused || m.Reason == "" || m.Next == nil {
		t.Errorf("the annotation says %+v", m)
	}
	// It is tried again and again, and told once, with a count.
	e := b.waitEvent(agent.EventModelPullFailed, func(e eventsv1.Event) bool { return strings.HasPrefix(e.Note, "missing") })
	if e.Type != corev1.EventTypeWarning {
		t.Errorf("the event is %+v", e)
	}
	err := cluster.WaitFor(t.Context(), "five attempts", func(context.Context) (bool, error) {
		return len(hub.Requests(fetchertest.Match{})) >= 5, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	events, err := b.client.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events.Items {
		if e.Regarding.Name == b.node && strings.HasPrefix(e.Note, "missing") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d events of one repeated failure", n)
	}
}

// gpuPod makes a pod that is bound to the node.
func (b *bench) gpuPod(name, model string, gpus int64, adapters ...string) {
	b.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: b.node, Containers: []corev1.Container{{Name: "vllm", Image: "vllm"}}},
	}
	if model != "" {
		pod.Labels[agent.ModelLabel] = model
	}
	if len(adapters) > 0 {
		pod.Annotations = map[string]string{agent.AdaptersAnnotation: strings.Join(adapters, ", ")}
	}
	if gpus > 0 {
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(gpus, resource.DecimalSI)}
	}
	if _, err := b.client.CoreV1().Pods(namespace).Create(b.Context(), pod, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

func testPodDemand(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	const entry = "{name: %s, source: '%s', nodeSelector: {pool: other}}"
	b.list(fmt.Sprintf(entry, "elsewhere", b.model("elsewhere", 1)), fmt.Sprintf(entry, "adapter", b.model("adapter", 1)))
	b.start()
	b.wait("the models to be skipped", func(*corev1.Node) bool {
		return b.modelStatus("elsewhere").State == agent.StateSkipped && b.modelStatus("adapter").State == agent.StateSkipped
	})
	b.gpuPod("wants-"+b.node, "elsewhere", 1, "adapter", "unheard")
	b.waitLabel(agent.WarmPrefix+"elsewhere", "disk")
	b.waitLabel(agent.WarmPrefix+"adapter", "disk")
	b.wait("what no list has to be refused", func(*corev1.Node) bool { return b.modelStatus("unheard").Code == store.CodeRefused })
	if err := b.client.CoreV1().Pods(namespace).Delete(t.Context(), "wants-"+b.node, *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	b.waitLabel(agent.WarmPrefix+"elsewhere", "")
	b.waitLabel(agent.WarmPrefix+"adapter", "")
}

func testFitsFollowsPods(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.gpus = "simulated:dgxh200,free.0=2GiB,free.1=2GiB"
	b.list(fmt.Sprintf("{name: pair, source: '%s', serving: {tensorParallel: 2}}", b.model("pair", 1)))
	b.start()
	b.waitLabel(agent.FitsPrefix+"pair", "3")
	b.waitLabel(agent.IdleLabel, "6")
	b.gpuPod("takes-"+b.node, "", 5)
	b.waitLabel(agent.FitsPrefix+"pair", "1")
}

func testWithoutGPUs(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.gpus = "none"
	b.list(fmt.Sprintf("{name: plain, source: '%s'}", b.model("plain", 1)))
	b.start()
	b.waitLabel(agent.WarmPrefix+"plain", "disk")
	for key := range b.labels() {
		if strings.HasPrefix(key, "gpu.stoker.dev/") || strings.HasPrefix(key, agent.FitsPrefix) {
			t.Errorf("%s is said though no GPU can be read", key)
		}
	}
	if g := b.status().GPUs; g.Known || g.Reason == "" {
		t.Errorf("the annotation says %+v", g)
	}
}

func testNoRoom(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	small, big := b.model("small", 1), b.model("big", 2)
	text := fmt.Sprintf("models: [{name: small, source: '%s', priority: 1}, {name: big, source: '%s'}]%s", small, big, intervals)
	text = strings.Replace(text, `store: {reserve: "0"}`, `store: {reserve: "0", quota: 600k}`, 1)
	b.config(strings.Replace(text, "\nintervals", "\npull: {concurrentModels: 1}\nintervals", 1))
	b.start()
	b.waitLabel(agent.WarmPrefix+"small", "disk")
	b.wait("the other one to be skipped", func(*corev1.Node) bool { return b.modelStatus("big").State == agent.StateSkipped })
	m := b.modelStatus("big")
	if m.Code != store.CodeNoRoom || !strings.Contains(m.Reason, "no room") || !strings.Contains(m.Reason, "quota") || m.Hint == "" {
		t.Errorf("the annotation says %+v", m)
	}
}

func testStatusFiles(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.list(fmt.Sprintf("{name: here, source: '%s'}", b.model("here", 1)), fmt.Sprintf("{name: never, source: 'file://%s/nothing'}", b.dir))
	b.gpuPod("typo-"+b.node, "unknown-model", 0)
	b.start()
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"here": "", "never": store.CodeRefused, "unknown-model": store.CodeRefused}
	err = cluster.WaitFor(t.Context(), "the status files", func(context.Context) (bool, error) {
		for name, code := range want {
			st, err := s.ReadStatus(name)
			if err != nil {
				return false, err
			}
			if st.Code != code || (code == "" && st.State != string(agent.StateWarm)) {
				return false, fmt.Errorf("%s is %+v", name, st)
			}
		}
		beat, err := s.ReadHeartbeat()
		return err == nil && beat.Node == b.node && time.Since(beat.Time) < 10*time.Second, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testFewWrites(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	b.list(fmt.Sprintf("{name: quiet, source: '%s'}", b.model("quiet", 1)))
	b.start()
	b.waitLabel(agent.FitsPrefix+"quiet", "8")
	version := b.get().ResourceVersion
	b.waitBeats(4 * time.Second)
	if now := b.get().ResourceVersion; now != version {
		t.Errorf("the Node was written though nothing changed: %s, then %s", version, now)
	}
}

func testProgress(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{BytesPerSecond: 2 << 20})
	hub.AddRepo("org/big", fetchertest.RepoOptions{})
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(3, 16<<20, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Push(t.Context(), "org/big", "main", tree); err != nil {
		t.Fatal(err)
	}
	b.list(fmt.Sprintf("{name: big, source: 'hf://org/big', endpoint: '%s'}", hub.URL()))
	b.start()
	var seen []int64
	b.wait("progress in the annotation", func(*corev1.Node) bool {
		m := b.modelStatus("big")
		if m.State == agent.StatePulling && m.TotalBytes > 0 && m.DoneBytes > 0 && !slices.Contains(seen, m.DoneBytes) {
			seen = append(seen, m.DoneBytes)
		}
		return len(seen) >= 2 && m.Rate > 0
	})
	if !slices.IsSorted(seen) {
		t.Errorf("progress goes back: %v", seen)
	}
	hub.SetBytesPerSecond(0)
	b.waitLabel(agent.WarmPrefix+"big", "disk")
	if text := b.get().Annotations[agent.StatusAnnotation]; strings.Contains(text, "Signature") || strings.Contains(b.log.String(), "Signature=") {
		t.Error("a signed URL was told")
	}
}

func testMovingRevision(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	hub.AddRepo("org/moving", fetchertest.RepoOptions{})
	push := func(seed uint64) string {
		t.Helper()
		tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: seed, Bare: true})
		if err != nil {
			t.Fatal(err)
		}
		commit, err := hub.Push(t.Context(), "org/moving", "main", tree)
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	first := push(1)
	b.list(fmt.Sprintf("{name: moving, source: 'hf://org/moving@main', endpoint: '%s', refresh: 1s}", hub.URL()))
	b.start()
	b.waitLabel(agent.RevPrefix+"moving", first[:12])
	seen := b.watch()
	second := push(2)
	b.waitLabel(agent.RevPrefix+"moving", second[:12])
	seen.always(agent.WarmPrefix+"moving", "disk")
	old := filepath.Join(b.storePath(), "models", "moving", first)
	err := cluster.WaitFor(t.Context(), "the old revision to go", func(context.Context) (bool, error) {
		_, err := os.Stat(old)
		return os.IsNotExist(err), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
