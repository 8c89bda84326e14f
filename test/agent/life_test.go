package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/cluster"
)

// quota is the short intervals with a quota, and one pull at a time.
func quota(bytes int64) string {
	text := strings.Replace(intervals, `store: {reserve: "0"}`, fmt.Sprintf(`store: {reserve: "0", quota: %d}`, bytes), 1)
	return strings.Replace(text, "\nintervals", "\npull: {concurrentModels: 1}\nintervals", 1)
}

// A more important model takes the place of a less important one, whose label
// goes before its files do (the store of this test looks), and which does not
// fight for its place afterwards.
func testMakesRoom(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	entries := []string{
		fmt.Sprintf("{name: low, source: '%s', priority: 1}", b.model("low", 1)),
		fmt.Sprintf("{name: held, source: '%s'}", b.model("held", 2)),
		fmt.Sprintf("{name: high, source: '%s', priority: 9}", b.model("high", 3)),
	}
	b.gpuPod("uses-"+b.node, "held", 0)
	b.list(entries...)
	b.start()
	for _, name := range []string{"low", "held", "high"} {
		b.waitLabel(agent.WarmPrefix+name, "disk")
	}
	seen := b.watch()
	b.wait("the store's size", func(*corev1.Node) bool { return b.status().Store.Bytes > 0 })
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		t.Fatal(err)
	}
	usage, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	urgent := fmt.Sprintf("{name: urgent, source: '%s', priority: 5}", b.model("urgent", 4))
	b.config("models: [" + strings.Join(append(entries, urgent), ", ") + "]" + quota(usage.StoreBytes+usage.StoreBytes/6))
	b.waitLabel(agent.WarmPrefix+"urgent", "disk")
	b.waitLabel(agent.WarmPrefix+"low", "")
	b.waitEvent(agent.EventModelEvicted, func(e eventsv1.Event) bool {
		return strings.Contains(e.Note, "low") && strings.Contains(e.Note, "makes room for urgent")
	})
	b.wait("the evicted model to be skipped", func(*corev1.Node) bool {
		m := b.modelStatus("low")
		return m.State == agent.StateSkipped && m.Code == store.CodeNoRoom && strings.Contains(m.Reason, "quota")
	})
	seen.always(agent.WarmPrefix+"held", "disk")
	seen.always(agent.WarmPrefix+"high", "disk")
	// Room comes back: the evicted model does as well, without waiting for its
	// next try.
	b.list(append(entries, urgent)...)
	b.waitLabel(agent.WarmPrefix+"low", "disk")
}

// A model that was refused for want of a token is pulled as soon as the mounted
// Secret has one.
func testCredentials(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	hub.AddRepo("org/gated", fetchertest.RepoOptions{Gated: true, Tokens: []string{"hf_secretsecret"}})
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 1, Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Push(t.Context(), "org/gated", "main", tree); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(b.configPath()), "credentials", "team-a")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("{name: gated, source: 'hf://org/gated', endpoint: '%s', credentials: team-a}", hub.URL())
	// No further try within the test, but for the one that the Secret causes.
	b.config("models: [" + entry + "]" + strings.Replace(intervals, "retryMin: 200ms, retryMax: 2s", "retryMin: 1h, retryMax: 1h", 1))
	b.start()
	b.wait("the model to be refused", func(*corev1.Node) bool {
		m := b.modelStatus("gated")
		return m.State == agent.StateFailed && m.Code == store.CodeRefused && m.Next != nil
	})
	if err := os.WriteFile(filepath.Join(dir, "HF_TOKEN"), []byte("hf_secretsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.waitLabel(agent.WarmPrefix+"gated", "disk")
	if text := b.get().Annotations[agent.StatusAnnotation] + b.log.String(); strings.Contains(text, "hf_secretsecret") {
		t.Error("the token was told")
	}
}

// A revision that a pod may have pinned stays as long as that pod; a pod that
// came after the switch holds nothing.
func testOldRevisionHeld(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push := func(seed uint64) string {
		t.Helper()
		tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: seed, Bare: true})
		if err != nil {
			t.Fatal(err)
		}
		commit, err := hub.Push(t.Context(), "org/held", "main", tree)
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	first := push(1)
	b.list(fmt.Sprintf("{name: held, source: 'hf://org/held@main', endpoint: '%s', refresh: 1s}", hub.URL()))
	b.gpuPod("pinned-"+b.node, "held", 0)
	b.start()
	b.waitLabel(agent.RevPrefix+"held", first[:12])
	second := push(2)
	b.waitLabel(agent.RevPrefix+"held", second[:12])
	b.waitBeats(3 * time.Second) // three times the grace period
	config := filepath.Join(b.storePath(), "models", "held", first, "config.json")
	if _, err := os.Stat(config); err != nil {
		t.Fatalf("a pod here may have pinned the first revision: %v", err)
	}
	if err := b.client.CoreV1().Pods(namespace).Delete(t.Context(), "pinned-"+b.node, *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	err := cluster.WaitFor(t.Context(), "the first revision to go", func(context.Context) (bool, error) {
		_, err := os.Stat(config)
		return os.IsNotExist(err), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
