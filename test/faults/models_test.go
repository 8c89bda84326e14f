package faults

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/test/ordeal"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// intervals make a step short. A pull's own patience with its source cannot be
// turned down.
const settings = `
store: {reserve: "0"}
scrub: {rate: 200Mi, cycle: 4s}
pull: {jobs: 4, concurrentModels: 2}
ram: {budget: 64Mi, rate: 200Mi}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, heartbeat: 1s, verify: 500ms, retryMin: 200ms, retryMax: 1s, residency: 500ms, resync: 1s, timeout: 2s, grace: 1s}
`

// rate is how fast the Hub sends when nothing is wrong with it, in bytes per
// second: slow enough that most kills land in a transfer.
const rate = 32 << 20

// choice is what an entry's nodeSelector makes of this node.
type choice int

const (
	everyNode choice = iota
	thisNode
	otherNodes
)

// entry is one model of the list as the harness wants it.
type entry struct {
	name string
	// repo and commit are the source; without a commit it moves with main.
	repo, commit string
	on           bool
	selector     choice
	priority     int
	// ram: its pages shall be in memory.
	ram bool
}

func (e entry) yaml() string {
	source, refresh := "hf://"+e.repo+"@main", ", refresh: 1s"
	if e.commit != "" {
		source, refresh = "hf://"+e.repo+"@"+e.commit, ""
	}
	selector := map[choice]string{everyNode: "{}", thisNode: "{pool: gpu}", otherNodes: "{pool: other}"}[e.selector]
	return fmt.Sprintf("{name: %s, source: '%s', nodeSelector: %s, priority: %d, ram: %t%s}", e.name, source, selector, e.priority, e.ram, refresh)
}

// Repositories of the walks' models.
const (
	tinyRepo, midRepo, largeRepo, movingRepo = "org/tiny", "org/mid", "org/large", "org/moving"
	sharedRepo, otherRepo                    = "org/shared", "org/other"
)

// pushModels fills the Hub and makes the list: small and large models, one that
// moves, and two that share what is large in them.
func (w *world) pushModels() {
	t := w.t
	t.Helper()
	push := func(repo string, spec fetchertest.ModelSpec, more map[string]string) string {
		return w.source.Push(t, repo, tree(t, spec, more))
	}
	tiny := push(tinyRepo, fetchertest.ModelSpec{Seed: 1}, nil)
	mid := push(midRepo, fetchertest.SpecOfSize(2, 12<<20, 2), nil)
	// The same weights in a later commit: only what differs is downloaded.
	midNext := push(midRepo, fetchertest.SpecOfSize(2, 12<<20, 2), map[string]string{"generation_config.json": `{"later": true}`})
	large := push(largeRepo, fetchertest.SpecOfSize(3, 48<<20, 1), nil)
	push(movingRepo, fetchertest.SpecOfSize(100, 9<<20, 2), nil)
	shared := push(sharedRepo, fetchertest.SpecOfSize(4, 9<<20, 1), map[string]string{"chat_template.jinja": "one"})
	other := push(otherRepo, fetchertest.SpecOfSize(4, 9<<20, 1), map[string]string{"chat_template.jinja": "another"})
	w.commits = map[string][]string{"mid": {mid, midNext}}
	w.entries = map[string]entry{
		"tiny":   {name: "tiny", repo: tinyRepo, commit: tiny, on: true, ram: true},
		"mid":    {name: "mid", repo: midRepo, commit: mid, on: true, priority: 1, ram: true},
		"large":  {name: "large", repo: largeRepo, commit: large, on: true, priority: -1},
		"moving": {name: "moving", repo: movingRepo, on: true, ram: true},
		"shared": {name: "shared", repo: sharedRepo, commit: shared, on: true, selector: thisNode},
		"other":  {name: "other", repo: otherRepo, commit: other, on: true},
		"picky":  {name: "picky", repo: tinyRepo, commit: tiny, on: true, selector: otherNodes},
		// Nobody has it: it must not keep others from anything.
		"ghost": {name: "ghost", repo: "org/ghost", commit: strings.Repeat("0", 40), on: true, priority: 9},
	}
}

// tree makes a model's files.
func tree(t *testing.T, spec fetchertest.ModelSpec, more map[string]string) fetchertest.Tree {
	t.Helper()
	spec.Bare = true
	files, err := fetchertest.GenerateModel(spec)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range more {
		files[path] = fetchertest.Bytes([]byte(text))
	}
	return files
}

// names are the entries' names, sorted.
func (w *world) names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.entries)), func(name string) bool { return name == "ghost" })
}

// wanted is which revision of each model the Node should call warm.
func (w *world) wanted() map[string]string {
	out := map[string]string{}
	for _, name := range w.names() {
		e := w.entries[name]
		if !e.on || (e.selector == otherNodes && !w.pods[name]) {
			continue
		}
		commit := e.commit
		if commit == "" {
			commit = w.source.Head(e.repo)
		}
		out[name] = commit[:ordeal.RevLength]
	}
	return out
}

// commitOf is what an entry means now, for choosing files to break.
func (w *world) commitOf(name string) string {
	if e := w.entries[name]; e.commit != "" {
		return e.commit
	}
	return w.source.Head(w.entries[name].repo)
}

// sharing are the models that have a content in some revision.
func (w *world) sharing(sha256 string) []string {
	var out []string
	for _, name := range w.names() {
		repo := w.entries[name].repo
		for _, commit := range w.source.CommitsWith(sha256) {
			if w.source.RepoOf(commit) == repo {
				out = append(out, name)
				break
			}
		}
	}
	return out
}

// writeList puts the list where the agent reads it.
func (w *world) writeList() {
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(w.entries)) {
		if e := w.entries[name]; e.on {
			entries = append(entries, e.yaml())
		}
	}
	text := "models: [" + strings.Join(entries, ", ") + "]" + settings
	if w.forgetful {
		text = strings.Replace(text, "budget: 64Mi", `budget: "1"`, 1)
	}
	w.writeConfig(text)
	w.nonsense.Store(false)
}

func (w *world) writeConfig(text string) {
	next := w.configPath() + ".next"
	err := os.MkdirAll(filepath.Dir(next), 0o755)
	if err == nil {
		err = os.WriteFile(next, []byte(text), 0o644)
	}
	if err == nil {
		err = os.Rename(next, w.configPath())
	}
	if err != nil {
		w.fail("write the list: %v", err)
	}
}
