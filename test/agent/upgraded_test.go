package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/ordeal"
)

// dense is a file that older rules left out and vLLM loads.
const dense = "2_Dense/pytorch_model.bin"

// After an upgrade that chooses files by other rules, a node keeps what it has and its
// label while the source cannot be reached. Then the missing file is fetched, and
// nothing that is there.
func testUpgradedRules(t *testing.T, c *cluster.Cluster) {
	for name, row := range map[string]struct {
		older  int  // version of the rules that chose what is published
		pinned bool // the list names the commit
		moves  bool // main has another commit by the time the source is back
	}{
		"commit":       {fetcher.SelectionVersion - 1, true, false},
		"branch":       {fetcher.SelectionVersion - 1, false, false},
		"unrecorded":   {0, true, false},
		"moved-branch": {0, false, true},
		"moved-past":   {0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c)
			hub := ordeal.NewSource(t, 0)
			tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 5, Bare: true})
			if err != nil {
				t.Fatal(err)
			}
			tree["2_Dense/config.json"] = fetchertest.Bytes([]byte(`{"in_features": 8}`))
			tree[dense] = fetchertest.Bytes(bytes.Repeat([]byte("weights"), 20_000))
			first := hub.Push(t, "org/upgraded", tree)
			source := "hf://org/upgraded@main"
			if row.pinned {
				source = "hf://org/upgraded@" + first
			}
			b.publishByRules(row.older, source, hub)
			b.labelled("upgraded", first)
			seen := b.watch()

			hub.Gate.Set(ordeal.GateClosed)
			hub.CDNGate.Set(ordeal.GateClosed)
			b.list(fmt.Sprintf("{name: upgraded, source: '%s', endpoint: '%s'}", source, hub.URL()))
			b.start()
			b.wait("why it is not brought up to date", func(*corev1.Node) bool {
				m := b.modelStatus("upgraded")
				return m.State == agent.StateUpdating && m.Reason != "" && m.Revision == first
			})
			if m := b.lookup("upgraded"); m.Revision != first || m.Selection != row.older {
				t.Errorf("without the source, published is %s by rules %d", m.Revision, m.Selection)
			}

			before := sent(hub, first)
			second := first
			if row.moves {
				tree = maps.Clone(tree)
				tree["generation_config.json"] = fetchertest.Bytes([]byte(`{"temperature": 0.5}`))
				second = hub.Push(t, "org/upgraded", tree)
			}
			want, fetched := first, []string{dense}
			if row.moves && !row.pinned {
				want, fetched = second, append(fetched, "generation_config.json")
			}
			hub.CDNGate.Set(ordeal.GateOpen)
			hub.Gate.Set(ordeal.GateOpen)
			b.wait("the new manifest", func(*corev1.Node) bool {
				m := b.modelStatus("upgraded")
				return m.State == agent.StateWarm && m.Revision == want && b.lookup("upgraded").Selection == fetcher.SelectionVersion
			})
			b.waitLabel(agent.RevPrefix+"upgraded", want[:12])
			seen.always(agent.WarmPrefix+"upgraded", "disk")
			// The new revision's label comes with its manifest, and the old one's does not return.
			revisions := slices.Compact(seen.values(agent.RevPrefix + "upgraded"))
			if expected := slices.Compact([]string{first[:12], want[:12]}); !slices.Equal(revisions, expected) {
				t.Errorf("the Node had the revisions %q, want %q", revisions, expected)
			}
			b.checkUpgraded(want, tree)
			for path, n := range sent(hub, want) {
				least := before[path]
				if slices.Contains(fetched, path) {
					least = tree[path].Size()
				}
				if n != least {
					t.Errorf("%d bytes of %s were sent, want %d", n, path, least)
				}
			}
		})
	}
}

// publishByRules publishes the model as a stoker whose rules leave the dense layer out:
// its files are pulled, and the manifest gets that version.
func (b *bench) publishByRules(version int, source string, hub *ordeal.Source) {
	b.Helper()
	s, err := store.Open(b.storePath())
	if err != nil {
		b.Fatal(err)
	}
	src, err := fetcher.ParseSource(source)
	if err != nil {
		b.Fatal(err)
	}
	f := fetcher.New(fetcher.Options{Store: s, Drivers: fetcher.Drivers{fetcher.SchemeHub: b.hubDriver}, Logger: slog.New(slog.DiscardHandler)})
	res, err := f.Pull(b.Context(), fetcher.Request{
		Name: "upgraded", Source: src, Exclude: []string{dense}, Access: fetcher.Access{Endpoint: hub.URL()},
	})
	if err != nil {
		b.Fatal(err)
	}
	m, err := s.Manifest("upgraded", res.Revision)
	if err != nil {
		b.Fatal(err)
	}
	m.Exclude, m.Selection = nil, version
	text, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.storePath(), "manifests", "upgraded", res.Revision+".json")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.Fatal(err)
	}
}

// labelled puts a model's labels on the Node as the agent before the upgrade left them.
func (b *bench) labelled(name, revision string) {
	b.Helper()
	node := applycorev1.Node(b.node).WithLabels(map[string]string{agent.WarmPrefix + name: "disk", agent.RevPrefix + name: revision[:12]})
	if _, err := b.client.CoreV1().Nodes().Apply(b.Context(), node, metav1.ApplyOptions{FieldManager: agent.FieldManager, Force: true}); err != nil {
		b.Fatal(err)
	}
}

// lookup reads what is published of a model as others read it.
func (b *bench) lookup(name string) store.Manifest {
	b.Helper()
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		b.Fatal(err)
	}
	m, err := s.Lookup(name)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// checkUpgraded holds what is published against the tree, where vLLM finds it and where
// the Hub's clients do.
func (b *bench) checkUpgraded(revision string, tree fetchertest.Tree) {
	b.Helper()
	m := b.lookup("upgraded")
	if len(m.Files) != len(tree) {
		b.Errorf("published are %d files of %d", len(m.Files), len(tree))
	}
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		b.Fatal(err)
	}
	if res, err := s.Verify(context.WithoutCancel(b.Context()), m, nil); err != nil || len(res.Problems) > 0 {
		b.Errorf("published bytes do not verify: %v, %v", res.Problems, err)
	}
	want, err := io.ReadAll(tree[dense].Reader())
	if err != nil {
		b.Fatal(err)
	}
	for _, dir := range []string{s.Path("upgraded", revision), filepath.Join(b.storePath(), "hub/models--org--upgraded/snapshots", revision)} {
		if got, err := os.ReadFile(filepath.Join(dir, dense)); err != nil || !bytes.Equal(got, want) {
			b.Errorf("%s holds %d bytes of %s, %v", dir, len(got), dense, err)
		}
	}
}

// sent is how many bytes of each file of a commit left the source so far.
func sent(hub *ordeal.Source, commit string) map[string]int64 {
	bytesOf := map[string]int64{}
	for path, f := range hub.Files(commit) {
		bytesOf[path] = hub.Sent(f.SHA256)
	}
	return bytesOf
}

// values are a label's, in the order in which the Node had them; "" where it was absent.
func (w *watcher) values(key string) []string {
	values := make([]string, w.count())
	for i := range values {
		values[i] = w.all[i][key]
	}
	return values
}
