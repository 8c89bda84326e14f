package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

// secretText is in a file beside the store that attacks lead to.
const secretText = "root:$6$abcdefgh:20000::::::"

// swaps put something in the place of a file or folder of a store. outside is a file
// with a secret, beside the store.
func swaps() map[string]func(path, outside string) error {
	return map[string]func(path, outside string) error{
		"pipe":   func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
		"folder": func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o755) },
		"link":   func(path, outside string) error { return os.Symlink(outside, path) },
		"loop":   func(path, _ string) error { return os.Symlink(filepath.Base(path), path) },
		"name":   func(path, outside string) error { return os.Link(outside, path) },
		"sparse": func(path, _ string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 3<<40))
		},
		"device": func(path, _ string) error {
			if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); !errors.Is(err, fs.ErrPermission) {
				return err
			}
			return os.Symlink("/dev/zero", path) // where none can be made
		},
		"other bytes": func(path, _ string) error { return os.WriteFile(path, bytes.Repeat([]byte("H"), swappedSize), 0o444) },
	}
}

// swappedSize is how large the weights are that are swapped, in bytes.
const swappedSize = 70_000

// swappedPlaces are the files and folders of one model, and how they are swapped:
// whatever a label is about, in every way. REVISION and BLOB stand for the model's own.
func swappedPlaces() map[string][]string {
	all, some := slices.Sorted(maps.Keys(swaps())), []string{"pipe", "link", "sparse"}
	return map[string][]string{
		"models/NAME/current": all, "models/NAME": all, "models/NAME/REVISION": all, "models/NAME/REVISION/model.safetensors": all,
		"manifests/NAME/REVISION.json": all, "manifests/NAME": all, "blobs/sha256/BLOB": all,
		"status/NAME.json": some, "agent/pulls/NAME": some, "agent/locks/model-NAME.lock": some, "agent/verified/BLOB.json": some,
		"agent/progress/NAME.json": some, "agent/withdrawn/NAME/REVISION.json": some, "partial/BLOB": some, "partial/BLOB.json": some,
	}
}

// sharedPlaces are the files of a store that are of no model.
func sharedPlaces() []string {
	return []string{"agent/store-id", "agent/locks/layout.lock", "agent/config.json", "agent/memory.json", "agent/scrub.json", "agent/speed.json", "status/agent.json"}
}

// swapped is a model one of whose files was swapped.
type swapped struct {
	attack, revision string
	weights          []byte
	wrong            time.Time // since when a label promises other bytes
}

// While an agent runs, the files of its store are swapped for pipes, links, devices and
// the like. No label promises other bytes for longer than the agent takes to look; it
// hangs nowhere, takes little memory, neither reads nor changes what is outside of the
// store, and mends everything.
func testSwapped(t *testing.T, c *cluster.Cluster) {
	const bound = 20 * time.Second // observe, verify, timeout and a busy machine
	p := newProcess(t, c, nodeOf(t))
	outside := filepath.Join(p.dir, "outside")
	if err := os.WriteFile(outside, []byte(secretText), 0o600); err != nil {
		t.Fatal(err)
	}
	models, list := map[string]*swapped{}, []string{}
	add := func(name, attack string) {
		m := &swapped{attack: attack, weights: bytes.Repeat([]byte(name+"\n"), swappedSize)[:swappedSize]}
		dir := filepath.Join(p.dir, "sources", name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o644),
			os.WriteFile(filepath.Join(dir, "model.safetensors"), m.weights, 0o644)); err != nil {
			t.Fatal(err)
		}
		models[name] = m
		list = append(list, fmt.Sprintf("{name: %s, source: 'file://%s'}", name, dir))
	}
	for place, kinds := range swappedPlaces() {
		for _, kind := range kinds {
			add(fmt.Sprintf("m%d", len(models)), kind+" at "+place)
		}
	}
	start := func() {
		p.start(fmt.Sprintf("models: [%s]\npull: {concurrentModels: 8}%s", strings.Join(list, ", "), intervals))
	}
	start()
	p.waitWarm(len(models))

	// All at once, each at a model of its own.
	for name, m := range models {
		kind, place, _ := strings.Cut(m.attack, " at ")
		p.swap(m, kind, strings.NewReplacer("NAME", name).Replace(place), outside, name)
	}
	p.waitMended(models, bound)
	// What all models share, one after the other; then an agent that begins with that.
	for _, place := range sharedPlaces() {
		for kind, swap := range swaps() {
			path := filepath.Join(p.store, place)
			if err := errors.Join(os.RemoveAll(path), swap(path, outside)); err != nil {
				t.Fatalf("%s at %s: %v", kind, place, err)
			}
		}
	}
	p.waitMended(models, bound)
	small := func() {
		t.Helper()
		if peak := p.memory("VmHWM"); peak > 256<<20 {
			t.Errorf("the agent takes %d MiB", peak>>20)
		} else {
			t.Logf("the agent takes %d MiB at most", peak>>20)
		}
	}
	small()
	p.stop()
	add("late", "none")
	start()
	p.waitMended(models, bound)

	small()
	text, err := os.ReadFile(outside)
	if info, statErr := os.Stat(outside); err != nil || statErr != nil || string(text) != secretText || info.Mode() != 0o600 {
		t.Errorf("what is outside has changed: %q, %v, %v", text, err, statErr)
	}
	p.holdsNo(secretText, outside)
}

// swap puts something in a place of a model's, which is named by what it is now.
func (p *process) swap(m *swapped, kind, place, outside, name string) {
	p.Helper()
	revision, err := os.Readlink(filepath.Join(p.store, "models", name, "current"))
	if err != nil {
		p.Fatal(err)
	}
	blob, err := os.Readlink(filepath.Join(p.store, "models", name, revision, "model.safetensors"))
	if err != nil {
		p.Fatal(err)
	}
	m.revision = revision
	path := filepath.Join(p.store, strings.NewReplacer("REVISION", revision, "BLOB", filepath.Base(blob)).Replace(place))
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), swaps()[kind](path, outside)); err != nil {
		p.Fatalf("%s: %v", m.attack, err)
	}
}

// right reports whether a reader finds the model's weights, as a pod does: it may meet
// anything, and reads no more than they have.
func (p *process) right(name string, m *swapped) bool {
	f, err := os.OpenFile(filepath.Join(p.store, "models", name, "current", "model.safetensors"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	got := make([]byte, swappedSize+1)
	n := 0
	for n < len(got) {
		k, err := f.Read(got[n:])
		if n += k; err != nil || k == 0 {
			break
		}
	}
	return bytes.Equal(got[:n], m.weights)
}

// waitMended waits until every model is warm and right, and demands that none is called
// warm for longer than bound while it is not right.
func (p *process) waitMended(models map[string]*swapped, bound time.Duration) {
	p.Helper()
	began := time.Now()
	alive := began
	err := cluster.WaitFor(p.Context(), "the agent to mend its store", func(ctx context.Context) (bool, error) {
		if err := p.healthy(ctx); err == nil {
			alive = time.Now()
		} else if time.Since(alive) > bound {
			return false, fmt.Errorf("the agent does not live: %w", err)
		}
		wrong := map[string]bool{}
		for name, m := range models {
			wrong[name] = !p.right(name, m)
		}
		node, err := p.cluster.Client().CoreV1().Nodes().Get(ctx, p.node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		var missing []string
		for name, m := range models {
			_, warm := node.Labels[agent.WarmPrefix+name]
			if !warm || wrong[name] {
				missing = append(missing, name+" ("+m.attack+")")
			}
			switch {
			case !warm || !wrong[name]:
				m.wrong = time.Time{}
			case m.wrong.IsZero():
				m.wrong = time.Now()
			case time.Since(m.wrong) > bound:
				p.Errorf("%s: the label promises other bytes for %s", m.attack, time.Since(m.wrong).Round(time.Second))
				m.wrong = time.Now()
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			return false, fmt.Errorf("%d are not warm and right: %v", len(missing), missing[:min(len(missing), 5)])
		}
		return true, nil
	})
	if err != nil {
		p.Fatal(err)
	}
	p.Logf("mended after %s", time.Since(began).Round(100*time.Millisecond))
}

// holdsNo fails the test if a file of the store has the text, but by another name of the
// file that has it.
func (p *process) holdsNo(text, but string) {
	p.Helper()
	known, err := os.Stat(but)
	if err != nil {
		p.Fatal(err)
	}
	err = filepath.WalkDir(p.store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || os.SameFile(info, known) || info.Size() > 1<<30 {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			p.Errorf("%s has what is outside", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.Error(err)
	}
}
