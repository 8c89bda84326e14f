package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
)

// dead is the file system of a directory that can stop answering, as one whose
// server is gone does: no call returns, and nothing interrupts it.
type dead struct {
	fuse.RawFileSystem
	gate sync.RWMutex
}

func (d *dead) pass() {
	d.gate.RLock()
	defer d.gate.RUnlock()
}

func (d *dead) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	d.pass()
	return d.RawFileSystem.Lookup(cancel, header, name, out)
}

func (d *dead) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	d.pass()
	return d.RawFileSystem.GetAttr(cancel, in, out)
}

func (d *dead) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	d.pass()
	return d.RawFileSystem.Open(cancel, in, out)
}

func (d *dead) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	d.pass()
	return d.RawFileSystem.OpenDir(cancel, in, out)
}

func (d *dead) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	d.pass()
	return d.RawFileSystem.Create(cancel, in, name, out)
}

func (d *dead) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	d.pass()
	return d.RawFileSystem.StatFs(cancel, in, out)
}

// mountDead mounts it until the test ends.
func mountDead(t *testing.T) (*dead, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a volume that hangs does is not tested here")
	}
	dir := t.TempDir()
	for _, name := range []string{"behind", "volume"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := fs.NewLoopbackRoot(filepath.Join(dir, "behind"))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "volume")
	d := &dead{RawFileSystem: fs.NewNodeFS(root, &fs.Options{})}
	server, err := fuse.NewServer(d, at, &fuse.MountOptions{Name: "dead", DirectMountStrict: true, EnableLocks: true})
	if err != nil {
		t.Skipf("SKIPPED, no FUSE here (%v): what a volume that hangs does is not tested", err)
	}
	go server.Serve()
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
		server.Wait()
	})
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	return d, at
}

// A volume that stops answering takes the labels and nothing else: the agent
// lives, says so, and labels again when the volume is back, without pulling. It
// is the same when the agent is started while the volume hangs.
func TestVolumeThatHangs(t *testing.T) {
	d, volume := mountDead(t)
	hangs := false
	hang := func() { d.gate.Lock(); hangs = true }
	release := func() { d.gate.Unlock(); hangs = false }
	t.Cleanup(func() {
		if hangs {
			release() // whatever failed: nobody can end who waits for it
		}
	})
	p := newProcess(t, startCluster(t), "hangs")
	p.store = filepath.Join(volume, "store")
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 1, Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Push(t.Context(), "org/tiny", "main", tree); err != nil {
		t.Fatal(err)
	}
	// What measures and reads into memory hangs as well.
	config := fmt.Sprintf("models: [{name: tiny, source: 'hf://org/tiny', endpoint: '%s', ram: true}]%s",
		hub.URL(), strings.Replace(remembering("1Gi"), "timeout: 5s", "timeout: 1s", 1))
	p.start(config)
	p.waitWarm(1)
	sent := hub.BytesSent(fetchertest.Match{})

	hang()
	p.waitWarm(0)
	p.waitStatus("the store cannot be read")
	if err := p.healthy(t.Context()); err != nil {
		t.Errorf("the agent does not live: %v", err)
	}
	release()
	p.waitWarm(1)

	// An agent that is asked to end while its volume hangs does what it can. The
	// kernel keeps the process until the calls return that it waits for.
	hang()
	p.waitWarm(0)
	p.signal()
	p.waitSilent()
	release()
	p.stop()
	p.start(config)
	p.waitWarm(1)
	p.stop()

	hang()
	p.start(config)
	p.waitWarm(0)
	if err := p.healthy(t.Context()); err != nil {
		t.Errorf("an agent that starts on a volume that hangs does not live: %v", err)
	}
	release()
	p.waitWarm(1)
	p.stop()
	if again := hub.BytesSent(fetchertest.Match{}) - sent; again > 64<<10 {
		t.Errorf("%d bytes were downloaded again", again)
	}
}

// waitSilent waits until the process listens no more.
func (p *process) waitSilent() {
	p.Helper()
	err := cluster.WaitFor(p.Context(), "the agent to end", func(ctx context.Context) (bool, error) {
		err := p.healthy(ctx)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		p.Error(err) // not Fatal: what hangs has to be released
	}
}

// waitStatus waits until the annotation has a text.
func (p *process) waitStatus(text string) {
	p.Helper()
	err := cluster.WaitFor(p.Context(), fmt.Sprintf("%q in the annotation", text), func(ctx context.Context) (bool, error) {
		node, err := p.cluster.Client().CoreV1().Nodes().Get(ctx, p.node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		status := node.Annotations[agent.StatusAnnotation]
		if !strings.Contains(status, text) {
			return false, fmt.Errorf("it is %s", status)
		}
		return true, nil
	})
	if err != nil {
		p.Fatal(err)
	}
}
