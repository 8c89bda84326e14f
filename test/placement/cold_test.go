package placement

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

const (
	// short intervals make a step of a test short.
	short = `
pull: {concurrentModels: 1}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, heartbeat: 1s, retryMin: 500ms, retryMax: 2s, resync: 1s}
`
	// coldSpace is the namespace of pods that land on nodes with real agents.
	coldSpace = "cold"
)

// rights are the chart's account for agents, what it may do, and what keeps it
// to its own Node.
func (f *fixture) rights() {
	f.Helper()
	objs, err := charts.Render([]byte("inject: {enabled: false}"), "rel", system)
	if err != nil {
		f.Fatal(err)
	}
	for i := len(objs) - 1; i >= 0; i-- {
		if kind := objs[i].GetKind(); kind == "DaemonSet" || kind == "Deployment" {
			objs = append(objs[:i], objs[i+1:]...)
		}
	}
	if err := charts.Apply(f.Context(), f.cluster.RESTConfig(), objs); err != nil {
		f.Fatal(err)
	}
}

// repo makes a repository with a model of about so many bytes, and returns its
// entry of the list without the closing brace.
func (f *fixture) repo(hub *fetchertest.Hub, name string, size int64, o fetchertest.RepoOptions) string {
	f.Helper()
	hub.AddRepo("org/"+name, o)
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(uint64(len(name)), size, 2))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := hub.Push(f.Context(), "org/"+name, "main", tree); err != nil {
		f.Fatal(err)
	}
	return fmt.Sprintf("{name: %s, source: 'hf://org/%s', endpoint: '%s'", name, name, hub.URL())
}

// land creates a pod that names a model, and returns it when the scheduler has
// bound it to the node.
func (f *fixture) land(name, node string) *corev1.Pod {
	f.Helper()
	p := pod("wants-" + name)
	p.Labels[agent.ModelLabel], p.Labels["app"] = name, name
	p.Spec.NodeSelector = map[string]string{poolLabel: node}
	if _, err := f.client.CoreV1().Pods(coldSpace).Create(f.Context(), p, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	p = f.waitPods(coldSpace, name, 1, 0)[0]
	if p.Spec.NodeName != node || len(p.Spec.InitContainers) != 1 || p.Spec.InitContainers[0].Name != inject.Waiter {
		f.Fatalf("the pod is on %s with %+v", p.Spec.NodeName, p.Spec.InitContainers)
	}
	return p
}

// waitNode waits for a condition of a Node.
func (m *machine) waitNode(what string, cond func(*corev1.Node) bool) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), 5*time.Minute) // agents take their time to say that more is free
	defer cancel()
	err := cluster.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		n, err := m.client.CoreV1().Nodes().Get(ctx, m.node, metav1.GetOptions{})
		if err != nil || cond(n) {
			return err == nil, err
		}
		return false, fmt.Errorf("labels are %v, the annotation is %s", n.Labels, n.Annotations[agent.StatusAnnotation])
	})
	if err != nil {
		m.Fatal(err)
	}
}

func (m *machine) state(name string) store.Status {
	m.Helper()
	s, err := store.OpenReadOnly(m.store)
	if err != nil {
		return store.Status{}
	}
	st, err := s.ReadStatus(name)
	if err != nil {
		return store.Status{}
	}
	return st
}

// A pod that names a model lands on a node that lacks it: what the agent there
// does about it, and what the pod's init container says and does, with the real
// binary as both. One pull at a time; a large model of high priority is under way, another one
// waits, and the model that the pod names is of the lowest priority and not even
// wanted on this node. The slow source gives the large one no chance to end; the
// other one is held back until progress was shown.
func (f *fixture) testPulledFirst() {
	slow := fetchertest.StartHub(f, fetchertest.HubOptions{BytesPerSecond: 32 << 10})
	fast := fetchertest.StartHub(f, fetchertest.HubOptions{BytesPerSecond: 256 << 10})
	large, next := f.repo(slow, "large", 64<<20, fetchertest.RepoOptions{}), f.repo(slow, "next", 64<<20, fetchertest.RepoOptions{})
	wanted := f.repo(fast, "wanted", 24<<20, fetchertest.RepoOptions{})
	m := f.startAgent("cold-node", fmt.Sprintf("models: [%s, priority: 100}, %s, priority: 50}, %s, priority: -1, nodeSelector: {pool: other}}]%s", large, next, wanted, `
store: {reserve: "0"}`+short))
	err := cluster.WaitFor(f.Context(), "the large model to be pulled", func(context.Context) (bool, error) {
		if st := m.state("large"); st.State != string(agent.StatePulling) {
			return false, fmt.Errorf("it is %+v", st)
		}
		return true, nil
	})
	if err != nil {
		f.Fatal(err)
	}

	p := f.land("wanted", m.node)
	began := time.Now()
	w := m.runInit(p.Spec.InitContainers[0].Args)
	m.waitProgress(w)
	fast.SetBytesPerSecond(0)
	var published time.Time
	err = cluster.WaitFor(f.Context(), "the model to be published", func(context.Context) (bool, error) {
		s, err := store.OpenReadOnly(m.store)
		if err != nil {
			return false, err
		}
		if _, err := s.Lookup("wanted"); err != nil {
			return false, fmt.Errorf("%w; the init container says:\n%s", err, w.err.String())
		}
		published = time.Now()
		return true, nil
	})
	if err != nil {
		f.Fatal(err)
	}
	if code := m.finish(w); code != 0 {
		f.Fatalf("the init container ended with %d:\n%s", code, w.err.String())
	}
	f.Logf("published %s after the pod was bound, the init container ended %s later", published.Sub(began).Round(time.Millisecond), time.Since(published).Round(time.Millisecond))
	for _, name := range []string{"large", "next"} {
		if st := m.state(name); st.State == string(agent.StateWarm) {
			f.Errorf("%s was not kept waiting: %+v", name, st)
		}
	}
	m.checkPin(w)
	m.waitNode("the label", func(n *corev1.Node) bool { return n.Labels[agent.WarmPrefix+"wanted"] == agent.TierDisk })
	f.Logf("writes to the API server until then: %v; the init container said:\n%s", m.writes(), w.err.String())
}

// waitProgress waits until the init container has shown two steps of the pull: it
// says something when that begins, and every ten seconds.
func (m *machine) waitProgress(w *waiter) {
	m.Helper()
	line := regexp.MustCompile(`pulling: +(\d+)%, .* of .*`)
	err := cluster.WaitFor(m.Context(), "progress of the pull", func(context.Context) (bool, error) {
		shown := line.FindAllStringSubmatch(w.err.String(), -1)
		if len(shown) < 2 || shown[0][1] == shown[len(shown)-1][1] {
			return false, fmt.Errorf("the init container says:\n%s", w.err.String())
		}
		return true, nil
	})
	if err != nil {
		m.Fatal(err)
	}
}

// checkPin holds the link that vLLM gets against what is published.
func (m *machine) checkPin(w *waiter) {
	m.Helper()
	s, err := store.OpenReadOnly(m.store)
	if err != nil {
		m.Fatal(err)
	}
	manifest, err := s.Lookup("wanted")
	if err != nil {
		m.Fatal(err)
	}
	link := filepath.Join(w.pin, "model")
	target, err := os.Readlink(link)
	if err != nil || target != s.Path(manifest.Name, manifest.Revision) {
		m.Errorf("%s leads to %s, the store has %s: %v", link, target, s.Path(manifest.Name, manifest.Revision), err)
	}
	if got := strings.TrimSpace(w.out.String()); got != link {
		m.Errorf("the init container printed %q, want %s", got, link)
	}
	for _, file := range manifest.Files {
		if info, err := os.Stat(filepath.Join(link, filepath.FromSlash(file.Path))); err != nil || info.Size() != file.Size {
			m.Errorf("%s cannot be read through the link: %v", file.Path, err)
		}
	}
}

// The agent knows why, and the init container says so, long before its own
// time is over.
func (f *fixture) testRefused() {
	hub := fetchertest.StartHub(f, fetchertest.HubOptions{})
	entries := []string{
		f.repo(hub, "large", 64<<20, fetchertest.RepoOptions{}) + "}",
		f.repo(hub, "gated", 9<<20, fetchertest.RepoOptions{Gated: true, Tokens: []string{"hf_nobody"}}) + "}",
		fmt.Sprintf("{name: missing, source: 'hf://org/missing', endpoint: '%s'}", hub.URL()),
	}
	m := f.startAgent("small-node", "models: ["+strings.Join(entries, ", ")+"]\nstore: {reserve: \"0\", quota: 20Mi}"+short)
	for name, want := range map[string]struct {
		code int
		says []string
	}{
		"large":    {5, []string{"no room", "quota"}},
		"gated":    {3, []string{"gated"}},
		"missing":  {3, []string{"org/missing"}},
		"unlisted": {3, []string{"the model list does not have it", "stoker.dev/model"}},
	} {
		p := f.land(name, m.node)
		w := m.runInit(p.Spec.InitContainers[0].Args)
		code := m.finish(w)
		said := w.err.String()
		if code != want.code {
			f.Errorf("%s: the init container ended with %d, want %d:\n%s", name, code, want.code, said)
		}
		last := said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]
		for _, part := range want.says {
			if !strings.Contains(last, part) {
				f.Errorf("%s: %q is not in its last line: %s", name, part, last)
			}
		}
		if _, err := os.Lstat(filepath.Join(w.pin, "model")); !os.IsNotExist(err) {
			f.Errorf("%s: a pin was left: %v", name, err)
		}
		f.Logf("%s: exit code %d: %s", name, code, last)
	}
}
