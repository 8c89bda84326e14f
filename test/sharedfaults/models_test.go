package sharedfaults

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/ordeal"
)

// Times of a cluster, made short: what takes a minute there takes one of the looks
// that are verify apart here.
const (
	leaseDuration = 3 * time.Second
	// cached is for how long a mount believes what it has seen.
	cached = time.Second
	jobs   = 4
)

const settings = `
store: {reserve: "0"}
volume: {mode: shared, namespace: stoker-system, lease: rel-stoker-store, leaseDuration: 3s}
scrub: {rate: 200Mi, cycle: 4s}
pull: {jobs: 4, concurrentModels: 2}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, heartbeat: 1s, verify: 500ms, retryMin: 200ms, retryMax: 1s, resync: 1s, timeout: 2s, grace: 1s, leave: 3s}
`

// rate is how fast the Hub sends, in bytes per second: slow enough that most kills
// land in a transfer.
const rate = 16 << 20

// choice is what an entry's nodeSelector makes of nodes.
type choice int

const (
	everyNode choice = iota
	firstNode
	noNode
)

// entry is one model of the list as the harness wants it.
type entry struct {
	name string
	// repo and commit are the source; without a commit it moves with main.
	repo, commit string
	on           bool
	selector     choice
	priority     int
}

func (e entry) yaml() string {
	source, refresh := "hf://"+e.repo+"@main", ", refresh: 1s"
	if e.commit != "" {
		source, refresh = "hf://"+e.repo+"@"+e.commit, ""
	}
	selector := map[choice]string{everyNode: "{}", firstNode: "{pool: first}", noNode: "{pool: none}"}[e.selector]
	return fmt.Sprintf("{name: %s, source: '%s', nodeSelector: %s, priority: %d%s}", e.name, source, selector, e.priority, refresh)
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
	mid := push(midRepo, fetchertest.SpecOfSize(2, 8<<20, 2), nil)
	// The same weights in a later commit: only what differs is downloaded.
	midNext := push(midRepo, fetchertest.SpecOfSize(2, 8<<20, 2), map[string]string{"generation_config.json": `{"later": true}`})
	large := push(largeRepo, fetchertest.SpecOfSize(3, 32<<20, 1), nil)
	push(movingRepo, fetchertest.SpecOfSize(100, 5<<20, 2), nil)
	shared := push(sharedRepo, fetchertest.SpecOfSize(4, 5<<20, 1), map[string]string{"chat_template.jinja": "one"})
	other := push(otherRepo, fetchertest.SpecOfSize(4, 5<<20, 1), map[string]string{"chat_template.jinja": "another"})
	w.commits = map[string][]string{"mid": {mid, midNext}}
	w.entries = map[string]entry{
		"tiny":   {name: "tiny", repo: tinyRepo, commit: tiny, on: true},
		"mid":    {name: "mid", repo: midRepo, commit: mid, on: true, priority: 1},
		"large":  {name: "large", repo: largeRepo, commit: large, on: true, priority: -1},
		"moving": {name: "moving", repo: movingRepo, on: true},
		"shared": {name: "shared", repo: sharedRepo, commit: shared, on: true, selector: firstNode},
		"other":  {name: "other", repo: otherRepo, commit: other, on: true},
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

// publishMoving pushes a new commit of what moves.
func (w *world) publishMoving() {
	w.pushed++
	w.source.Push(w.t, movingRepo, tree(w.t, fetchertest.SpecOfSize(100+w.pushed, 5<<20, 2), nil))
}

// names are the entries' names, sorted.
func (w *world) names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.entries)), func(name string) bool { return name == "ghost" })
}

// commitOf is what an entry means now.
func (w *world) commitOf(name string) string {
	if e := w.entries[name]; e.commit != "" {
		return e.commit
	}
	return w.source.Head(w.entries[name].repo)
}

// wanted is which revision of each model a Node should call warm.
func (w *world) wanted(m *member) map[string]string {
	out := map[string]string{}
	for _, name := range w.names() {
		e := w.entries[name]
		if e.on && (e.selector == everyNode || e.selector == firstNode && m.number == 0) {
			out[name] = w.commitOf(name)[:ordeal.RevLength]
		}
	}
	return out
}

// sharing are the models that have a content in some revision.
func (w *world) sharing(sha256 string) []string {
	var out []string
	for _, name := range w.names() {
		repo := w.entries[name].repo
		if slices.ContainsFunc(w.source.CommitsWith(sha256), func(c string) bool { return w.source.RepoOf(c) == repo }) {
			out = append(out, name)
		}
	}
	return out
}

// edit changes an entry of the list, which is not written yet.
func (w *world) edit(name string, change func(e *entry)) {
	e := w.entries[name]
	w.source.Canceled(e.repo)
	change(&e)
	w.entries[name] = e
}

// writeList puts the list where the agents read it.
func (w *world) writeList() {
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(w.entries)) {
		if e := w.entries[name]; e.on {
			entries = append(entries, e.yaml())
		}
	}
	text := "models: [" + strings.Join(entries, ", ") + "]" + settings
	for _, m := range w.members {
		next := m.config + ".next"
		err := os.WriteFile(next, []byte(text), 0o644)
		if err == nil {
			err = os.Rename(next, m.config)
		}
		w.must("write the list", err)
	}
}
