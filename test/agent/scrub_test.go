package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/cluster"
)

// metric reads a line of the agent's metrics page.
func metric(t *testing.T, a *agent.Agent, name string) string {
	t.Helper()
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// away takes a model's source away until back is called, so that its label cannot
// come back before somebody looks.
func away(t *testing.T, source string) (back func()) {
	t.Helper()
	dir := strings.TrimPrefix(source, "file://")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
	}
}

// largestBlob is the path and size of what a model has most of.
func (b *bench) largestBlob() (path string, info os.FileInfo) {
	b.Helper()
	blobs, err := filepath.Glob(filepath.Join(b.storePath(), "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 3 {
		b.Fatalf("%d blobs: %v", len(blobs), err)
	}
	for _, blob := range blobs {
		if now, err := os.Stat(blob); err != nil {
			b.Fatal(err)
		} else if info == nil || now.Size() > info.Size() {
			path, info = blob, now
		}
	}
	return path, info
}

// waitPull waits until the model was pulled with so many bytes from its source.
func (b *bench) waitPull(name string, downloaded int64) {
	b.Helper()
	b.waitLabel(agent.WarmPrefix+name, "disk")
	last := ""
	for line := range strings.Lines(b.log.String()) {
		if strings.Contains(line, `msg="pulled model" model=`+name+" ") {
			last = line
		}
	}
	if want := fmt.Sprintf(" downloaded_bytes=%d ", downloaded); !strings.Contains(last, want) {
		b.Errorf("the last pull was %q, not one with%s", last, want)
	}
	s, err := store.OpenReadOnly(b.storePath())
	if err != nil {
		b.Fatal(err)
	}
	m, err := s.Lookup(name)
	if err != nil {
		b.Fatal(err)
	}
	if res, err := s.Verify(b.Context(), m, nil); err != nil || len(res.Problems) > 0 {
		b.Errorf("labelled bytes do not verify: %v, %v", res.Problems, err)
	}
}

// One bit that flips, with no trace in what stat shows, takes the label away, and
// costs one file's download.
func testRot(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	source := b.model("rotting", 1)
	b.config(fmt.Sprintf("models: [{name: rotting, source: '%s'}]", source) + intervals + "scrub: {rate: 1Gi, cycle: 1s}")
	a := b.start()
	b.waitLabel(agent.WarmPrefix+"rotting", "disk")
	back := away(t, source)
	path, info := b.largestBlob()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(content, 0)
	if err = errors.Join(err, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	b.waitLabel(agent.WarmPrefix+"rotting", "")
	b.waitEvent(agent.EventModelCorrupt, anyEvent)
	if bad := metric(t, a, "stoker_scrub_bad_blobs_total"); bad != "1" {
		t.Errorf("%s bad blobs", bad)
	}

	// A restart trusts it no more than before.
	b.stop()
	a = b.start()
	b.waitBeats(time.Second)
	if v := b.labels()[agent.WarmPrefix+"rotting"]; v != "" {
		t.Errorf("after a restart it is %s", v)
	}
	back()
	b.waitPull("rotting", info.Size())
	b.waitScrubbed(a)
	if v := b.labels()[agent.WarmPrefix+"rotting"]; v != "disk" {
		t.Error("the scrub took the label of what is right")
	}
}

// waitScrubbed waits until the agent has read everything once.
func (b *bench) waitScrubbed(a *agent.Agent) {
	b.Helper()
	b.wait("a scrub of everything", func(*corev1.Node) bool {
		return metric(b.T, a, "stoker_scrub_last_cycle_seconds") != ""
	})
}

// A file that some pod cannot read is no file to it; what it holds is not fetched
// for that.
func testModes(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	source := b.model("hidden", 1)
	b.list(fmt.Sprintf("{name: hidden, source: '%s'}", source))
	b.start()
	b.waitLabel(agent.WarmPrefix+"hidden", "disk")
	back := away(t, source)
	path, _ := b.largestBlob()
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	b.waitLabel(agent.WarmPrefix+"hidden", "")
	back()
	b.waitPull("hidden", 0)
}

// A volume that is unmounted takes its labels along, gets nothing written into
// what lies below it, and brings them back; one that is read-only keeps them.
func testVolume(t *testing.T, c *cluster.Cluster) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what happens without the volume is not tested here")
	}
	b := newBench(t, c)
	volume := filepath.Join(t.TempDir(), "volume")
	for _, dir := range []string{volume, b.storePath()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := syscall.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	// Looks into the store are short; one may be under way.
	unmount := func() {
		b.wait("the store unmounted", func(*corev1.Node) bool { return syscall.Unmount(b.storePath(), 0) == nil })
	}
	mount("none", volume, "tmpfs", 0)
	t.Cleanup(func() {
		if err := syscall.Unmount(volume, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	mount(volume, b.storePath(), "", syscall.MS_BIND)
	t.Cleanup(func() {
		b.stop()
		if err := syscall.Unmount(b.storePath(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b.list(fmt.Sprintf("{name: a, source: '%s'}", b.model("a", 1)))
	agt := b.start()
	b.waitLabel(agent.WarmPrefix+"a", "disk")

	unmount()
	b.waitLabel(agent.WarmPrefix+"a", "")
	b.wait("the reason", func(n *corev1.Node) bool {
		return strings.Contains(n.Annotations[agent.StatusAnnotation], "the store's volume is gone")
	})
	w := httptest.NewRecorder()
	agt.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", http.NoBody))
	if w.Code != http.StatusOK {
		t.Errorf("healthz is %d: %s", w.Code, w.Body.String())
	}
	if entries, err := os.ReadDir(b.storePath()); err != nil || len(entries) > 0 {
		t.Errorf("below the mount: %v, %v", entries, err)
	}

	mount(volume, b.storePath(), "", syscall.MS_BIND)
	b.waitLabel(agent.WarmPrefix+"a", "disk")
	mount("", b.storePath(), "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY)
	b.waitEvent(agent.EventStoreReadOnly, anyEvent)
	b.wait("the annotation to say that it is read-only", func(n *corev1.Node) bool {
		return n.Labels[agent.WarmPrefix+"a"] == "disk" && strings.Contains(n.Annotations[agent.StatusAnnotation], `"readOnly":true`)
	})
	if v := metric(t, agt, "stoker_store_readonly"); v != "1" {
		t.Errorf("stoker_store_readonly is %s", v)
	}
	mount("", b.storePath(), "", syscall.MS_REMOUNT|syscall.MS_BIND)
	b.wait("the annotation to say that it can be written", func(n *corev1.Node) bool {
		return n.Labels[agent.WarmPrefix+"a"] == "disk" && !strings.Contains(n.Annotations[agent.StatusAnnotation], `"readOnly":true`)
	})
}
