//go:build e2e && linux

package nfs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/machine"
	"github.com/stoker-project/stoker/test/ordeal"
)

// For how long a label may promise what is not there while an agent runs that could take it away. With the intervals of
// a cluster it is a minute, of which the intervals here are a thirtieth; beside that there are what the mount has cached
// (1 s), the time after which a call counts as hanging (3 s), and machines that share two processors.
const bound = 12 * time.Second

// rotBound is bound where only reading shows it: two cycles of the scrub, of which the first may have passed the byte,
// and the same again because it is slower beside pulls.
const rotBound = 40 * time.Second

// view reads a store in one machine.
type view struct {
	machine *machine.Machine
	dir     string

	mu sync.Mutex
	// ctx ends when something begins that would hold a read up, or change what it shows.
	ctx    context.Context //nolint:containedctx // the time in which reads are possible is a context
	cancel context.CancelFunc
	// clean is when the last look began that found nothing wrong.
	clean time.Time
}

func newView(m *machine.Machine, dir string) *view {
	v := &view{machine: m, dir: dir}
	v.open()
	return v
}

// open allows reads; close ends those under way and allows no other.
func (v *view) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cancel != nil {
		v.cancel()
	}
	v.ctx, v.cancel = context.WithCancel(context.Background())
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cancel()
}

// times returns the context of reads.
func (v *view) times() context.Context {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ctx
}

func (v *view) wasClean(began time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clean = began
}

func (v *view) cleanSince(t time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.clean.After(t)
}

// content is what a machine reads in a store.
type content struct {
	// manifests are the revisions with a manifest that is not empty, as MODEL/REVISION.
	manifests map[string]bool
	// sums are the SHA-256 of the files of models, by MODEL/REVISION/PATH.
	sums map[string]string
}

// readScript prints the manifests, then the checksum of every file of every revision, as pods see them.
const readScript = `cd %s || exit 3
find manifests -name '[!.]*.json' -size +0 -printf 'manifest %%P\n' 2>/dev/null
find models -mindepth 3 ! -type d -print0 2>/dev/null | xargs -0 -r sha256sum -- 2>/dev/null
exit 0`

// read reads everything, for at most half a minute. dropped: past the machine's caches.
func (v *view) read(ctx context.Context, dropped bool) (content, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if dropped {
		if err := v.machine.DropCaches(ctx); err != nil {
			return content{}, err
		}
	}
	out, err := v.machine.Output(ctx, fmt.Sprintf(readScript, v.dir))
	if err != nil {
		return content{}, err
	}
	c := content{manifests: map[string]bool{}, sums: map[string]string{}}
	for line := range strings.Lines(out) {
		first, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case !ok:
			return content{}, fmt.Errorf("cannot understand %q", line)
		case first == "manifest":
			c.manifests[strings.TrimSuffix(rest, ".json")] = true
		default:
			c.sums[strings.TrimPrefix(strings.TrimSpace(rest), "models/")] = first
		}
	}
	return c, nil
}

// check returns why a model's revision, given by its first digits, is not completely there.
func (c content) check(source *ordeal.Source, name, short string) error {
	for key := range c.manifests {
		if short != "" && strings.HasPrefix(key, name+"/"+short) {
			return c.checkRevision(source, key)
		}
	}
	return fmt.Errorf("there is no manifest of %s at %q", name, short)
}

// checkRevision returns why a revision, MODEL/REVISION, is not completely there.
func (c content) checkRevision(source *ordeal.Source, key string) error {
	_, commit, _ := strings.Cut(key, "/")
	files := source.Files(commit)
	if files == nil {
		return fmt.Errorf("the manifest %s is of a commit that was never pushed", key)
	}
	for path, want := range files {
		if got := c.sums[key+"/"+path]; got != want.SHA256 && !strings.HasPrefix(path, ".") {
			return fmt.Errorf("%s/%s has SHA-256 %q, not %s", key, path, got, want.SHA256)
		}
	}
	return nil
}

// modelTree makes a model's files.
func modelTree(t *testing.T, seed uint64, bytes int64, files int) fetchertest.Tree {
	t.Helper()
	spec := fetchertest.SpecOfSize(seed, bytes, files)
	spec.Bare = true
	tree, err := fetchertest.GenerateModel(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// checkNow compares every label of members with every byte that their machines read past their caches.
func (f *fleet) checkNow(members ...*member) {
	f.Helper()
	for _, m := range members {
		before, err := m.promises(f.Context())
		f.must("read a Node", err)
		c, err := m.view.read(f.Context(), true)
		if err != nil {
			f.Fatalf("read the store on %s: %v", m.node, err)
		}
		after, err := m.promises(f.Context())
		f.must("read a Node", err)
		for name, revision := range before {
			if err := c.check(f.source, name, revision); err != nil && after[name] == revision {
				f.Fatalf("the label of %s on %s is wrong: %v", name, m.node, err)
			}
		}
	}
}

// watchView compares a Node's labels with what its machine reads until ctx ends.
func (m *member) watchView(ctx context.Context) {
	m.watchReads(ctx, m.view, []*member{m}, ownView)
}

// watchVolume compares all labels, and what is published, with the server's disk until ctx ends.
func (f *fleet) watchVolume(ctx context.Context) {
	f.watchReads(ctx, f.volume, f.members, volumeItself)
}

func (f *fleet) watchReads(ctx context.Context, v *view, members []*member, where place) {
	last := time.Now()
	for f.tick(ctx, 500*time.Millisecond) {
		readable := v.times()
		if readable.Err() != nil {
			continue
		}
		began := time.Now()
		before := f.allPromises(ctx, members)
		c, err := v.read(readable, false) //nolint:contextcheck // it ends when reads become impossible
		took := time.Since(began)
		after := f.allPromises(ctx, members)
		if readable.Err() != nil || ctx.Err() != nil {
			continue
		}
		if err != nil {
			// A mount that answers late, or not at all, is what pods see then.
			f.note("read the store on %s: %v", v.machine.Name(), err)
			continue
		}
		passed := min(time.Since(last), 2*time.Second)
		last = time.Now()
		if took > leave/2 {
			f.note("reading the store on %s took %s: it counts for nothing", v.machine.Name(), took)
			continue
		}
		wrong := false
		for i, m := range members {
			found := map[string]string{}
			for name, revision := range before[i] {
				if err := c.check(f.source, name, revision); err != nil && after[i][name] == revision {
					found[name], wrong = err.Error(), true
				}
			}
			m.judge(where, found, passed) //nolint:contextcheck // see holder
		}
		if where == volumeItself {
			f.checkPublished(readable, v, c) //nolint:contextcheck // it ends when reads become impossible
		}
		if !wrong {
			v.wasClean(began)
		}
	}
}

func (f *fleet) allPromises(ctx context.Context, members []*member) []map[string]string {
	out := make([]map[string]string, len(members))
	for i, m := range members {
		promised, err := m.promises(ctx)
		if err != nil && ctx.Err() == nil {
			f.fail("read the Node %s: %v", m.node, err)
		}
		out[i] = promised
	}
	return out
}

// checkPublished demands that whatever has a manifest is completely there, unless the test broke it: labelled or not.
func (f *fleet) checkPublished(ctx context.Context, v *view, c content) {
	for key := range c.manifests {
		name, _, _ := strings.Cut(key, "/")
		err := c.checkRevision(f.source, key)
		if err == nil || f.allowances.of(name).damaged {
			continue
		}
		// It may have been removed meanwhile: the manifest goes first.
		again, readErr := v.read(ctx, false)
		if readErr != nil || !again.manifests[key] {
			continue
		}
		if err := again.checkRevision(f.source, key); err != nil && !f.allowances.of(name).damaged {
			f.fail("what is published is not there: %v", err)
		}
	}
}

// watchNodes sees every version of the Nodes until ctx ends, so that a label that goes without a reason is noticed
// however soon it comes back.
func (f *fleet) watchNodes(ctx context.Context, from *corev1.NodeList) {
	version := from.ResourceVersion
	for ctx.Err() == nil {
		stream, err := f.cluster.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			if ctx.Err() == nil {
				f.fail("watch the Nodes: %v", err)
			}
			return
		}
		for event := range stream.ResultChan() {
			n, ok := event.Object.(*corev1.Node)
			if !ok {
				if ctx.Err() == nil {
					f.fail("watch the Nodes: %v", event.Object)
				}
				break
			}
			version = n.ResourceVersion
			if m := f.memberOf(n.Name); m != nil {
				m.see(n)
			}
		}
		stream.Stop()
	}
}

// see takes one version of the Node.
func (m *member) see(n *corev1.Node) {
	before, now := m.promised, ordeal.Promises(n.Labels)
	m.promised = now
	if !maps.Equal(before, now) {
		m.note("%s promises %v", m.node, now)
	}
	for name := range now {
		if value := n.Labels[ordeal.WarmPrefix+name]; value != "shared" && value != "ram" {
			m.fail("%s calls %s %q", m.node, name, value)
		}
	}
	for name := range before {
		if a := m.allowances.of(name); now[name] == "" && !a.unwanted && !a.damaged && !m.loose.Load() {
			m.fail("the label of %s went from %s without a reason", name, m.node)
		}
	}
}

// watchHealth asks the agents whether their loops turn until ctx ends: they must, whatever happens to the volume and
// the API server.
func (f *fleet) watchHealth(ctx context.Context) {
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for f.tick(ctx, 2*time.Second) {
		for _, m := range f.members {
			readable := m.view.times()
			m.mu.Lock()
			p := m.process
			m.mu.Unlock()
			if p == nil || readable.Err() != nil || m.paused.Load() {
				continue
			}
			url := fmt.Sprintf("http://%s:%d/healthz", m.machine.Address(), agentPort)
			req, err := http.NewRequestWithContext(readable, http.MethodGet, url, http.NoBody) //nolint:contextcheck // it ends when the machine cannot be reached
			f.must("make a request", err)
			resp, err := client.Do(req)
			if err != nil {
				continue // it does not listen yet, or its machine was cut off just now
			}
			if err := resp.Body.Close(); err != nil && !errors.Is(err, context.Canceled) {
				f.note("%v", err)
			}
			if resp.StatusCode != http.StatusOK && readable.Err() == nil && !m.paused.Load() {
				f.fail("the agent of %s is not healthy: %s", m.node, resp.Status)
			}
		}
	}
}

// able reports whether the Node's agent runs and reaches the API server.
func (m *member) able() bool {
	m.mu.Lock()
	runs := m.process != nil
	m.mu.Unlock()
	return runs && !m.paused.Load() && m.view.times().Err() == nil && m.api.Fault() == (ordeal.APIFault{})
}
