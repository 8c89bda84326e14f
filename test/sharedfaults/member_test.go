package sharedfaults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
	"github.com/stoker-project/stoker/test/ordeal"
	"github.com/stoker-project/stoker/test/weakfs"
)

const (
	contSignal = syscall.SIGCONT
	killSignal = syscall.SIGKILL
	stopSignal = syscall.SIGSTOP
	termSignal = syscall.SIGTERM
)

// member is one Node with its agent and its mount of the volume.
type member struct {
	*world
	number                          int
	node, config, store, home, kube string
	api                             *ordeal.APIProxy
	// mine reads the volume by this node's mount.
	mine *ordeal.Reader
	log  *daemon.Log

	mu         sync.Mutex // who starts or ends the agent
	process    atomic.Pointer[daemon.Process]
	ending     atomic.Pointer[daemon.Process] // which the harness ends
	stopped    atomic.Bool                    // it gets no processor time
	restartDue atomic.Bool                    // it ended by itself

	// viewMu: who makes the mount unreadable has it, who reads there has it to read.
	viewMu sync.RWMutex
	view   atomic.Pointer[string] // what is wrong with the mount; nil: nothing
	// blind: nothing can be read there.
	blind atomic.Bool
	// loose: its labels may go, whichever.
	loose atomic.Bool

	history history
	lies    lies
}

func newMember(w *world, c *cluster.Cluster, number int, dir string) *member {
	t := w.t
	t.Helper()
	m := &member{
		world: w, number: number, node: fmt.Sprintf("%s-%d", w.mark(), number), config: filepath.Join(dir, "config.yaml"),
		store: filepath.Join(dir, "models"), home: filepath.Join(dir, "home"), kube: filepath.Join(dir, "kubeconfig"), log: &daemon.Log{},
	}
	m.mine = ordeal.NewReader(m.store)
	m.lies.all = map[string]*lie{}
	for _, d := range []string{dir, m.store, m.home} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	labels := map[string]string{walkLabel: w.mark()}
	if number == 0 {
		labels["pool"] = "first"
	}
	if _, err := c.AddNode(t.Context(), cluster.NodeSpec{Name: m.node, GPUs: 8, Labels: labels}); err != nil {
		t.Fatal(err)
	}
	direct, err := c.AgentKubeconfig(t.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: m.node, Pod: "agent-" + m.node})
	if err != nil {
		t.Fatal(err)
	}
	m.api = ordeal.NewAPIProxy(t, c.RESTConfig())
	m.api.Kubeconfig(t, direct, m.kube)
	return m
}

// ensure starts the agent if it does not run.
func (m *member) ensure() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.process.Load(); p != nil && !p.Ended() {
		return
	}
	m.restartDue.Store(false)
	m.stopped.Store(false)
	m.exposed()
	p, err := daemon.Start(daemon.Options{
		Binary: stoker, Config: m.config, Store: m.store, Node: m.node, Kubeconfig: m.kube, Verbose: true, Log: m.log,
		Env: []string{"HOME=" + m.home, "TMPDIR=" + m.home, "PATH=" + os.Getenv("PATH"), "HF_ENDPOINT=" + m.source.URL(), "HF_HUB_DISABLE_IMPLICIT_TOKEN=1"},
	})
	if err != nil {
		m.fail("%v", err)
		return
	}
	m.process.Store(p)
	m.wg.Go(func() {
		<-p.Done()
		if crash := p.Crash(); crash != "" {
			m.fail("the agent of %s crashed:\n%s", m.node, crash)
		}
		if m.ending.Load() != p {
			m.restartDue.Store(true)
			m.fail("the agent of %s ended by itself: %v", m.node, p.Err())
		}
	})
}

// end ends the agent with a signal and returns when it is gone. It does nothing if
// there is none.
func (m *member) end(signal syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.process.Load()
	if p == nil {
		return
	}
	m.ending.Store(p)
	m.source.Killed()
	p.Signal(signal)
	began := time.Now()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !p.Ended() {
		select {
		case <-p.Done():
		case <-again.C:
			// Who waits for a mount ends only when that answers, and a kubelet does not
			// wait for ever.
			if m.blind.Load() && time.Since(began) > time.Second {
				p.Signal(killSignal)
				m.must("fail what hangs", m.fs.GiveUp(m.number))
			}
		case <-late.C:
			m.fail("the agent of %s did not end within 20 s of %s", m.node, signal)
			p.Signal(killSignal)
		}
	}
	m.process.Store(nil)
	m.stopped.Store(false)
	m.restartDue.Store(false)
	m.exposed() // from here on nobody can correct a label
}

// signal sends a signal that does not end it.
func (m *member) signal(signal syscall.Signal) {
	p := m.process.Load()
	if p == nil {
		return
	}
	m.allow(signal)
	p.Signal(signal)
}

// allow says what it costs that an agent stops, or goes on.
func (m *member) allow(signal syscall.Signal) {
	// Its open connections end, and what it has in hand may be lost.
	m.source.Killed()
	m.stopped.Store(signal == stopSignal)
	m.exposed()
}

// fault has the mount fail. A blind one shows nothing.
func (m *member) fault(mode weakfs.Mode, left int64) {
	blind := mode == weakfs.Hangs || mode == weakfs.Stale
	m.see(string(mode), blind, func() error { return m.fs.Set(m.number, mode, left) })
}

// see changes what the node sees of the volume. Nobody of the harness looks
// meanwhile: it would wait for what hangs.
func (m *member) see(what string, blind bool, change func() error) {
	if blind {
		m.loose.Store(true)
	}
	m.viewMu.Lock()
	defer m.viewMu.Unlock()
	m.view.Store(&what)
	m.blind.Store(blind)
	m.must("have a mount fail", change())
	m.exposed()
}

// vanish takes the mount away, as unmounting does, until mend.
func (m *member) vanish() {
	m.see("unmounted", true, func() error { return unix.Mount("tmpfs", m.store, "tmpfs", 0, "mode=0755") })
}

// mend ends what is wrong with the mount.
func (m *member) mend() {
	m.viewMu.Lock()
	defer m.viewMu.Unlock()
	was := m.view.Load()
	if was == nil {
		return
	}
	if *was == "unmounted" {
		entries, err := os.ReadDir(m.store)
		m.must("look at what is in the mount's place", err)
		for _, e := range entries {
			m.fail("in the place of the volume that was gone the agent of %s wrote %s", m.node, e.Name())
		}
		err = unix.Unmount(m.store, 0)
		for i := 0; errors.Is(err, unix.EBUSY) && i < 200; i++ {
			time.Sleep(5 * time.Millisecond) // the agent looks at it
			err = unix.Unmount(m.store, 0)
		}
		m.must("mount again", err)
	} else {
		m.must("mend the mount", m.fs.Set(m.number, weakfs.Healthy, 0))
	}
	m.mine.Forget()
	m.view.Store(nil)
	m.blind.Store(false)
	m.exposed()
}

// able says whether its agent runs and reaches the API server.
func (m *member) able() bool {
	p := m.process.Load()
	return p != nil && !p.Ended() && !m.stopped.Load() && m.api.Fault() == (ordeal.APIFault{})
}

// watchHealth asks the agents whether their loops turn until ctx ends: they must,
// whatever happens to volume and API server.
func (w *world) watchHealth(ctx context.Context) {
	for w.tick(ctx, time.Second) {
		for _, m := range w.members {
			p := m.process.Load()
			if p == nil || time.Since(p.Started) < 3*time.Second || m.stopped.Load() {
				continue
			}
			callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := p.Healthy(callCtx)
			cancel()
			if err != nil && !errors.Is(err, daemon.ErrSilent) && ctx.Err() == nil && !p.Ended() && m.ending.Load() != p && !m.stopped.Load() && p == m.process.Load() {
				w.fail("the agent of %s is not healthy: %v", m.node, err)
			}
		}
	}
}

// checkOutside demands that nothing was written beside the volume.
func (w *world) checkOutside() {
	for _, m := range w.members {
		entries, err := os.ReadDir(m.home)
		if err != nil {
			w.t.Error(err)
		}
		for _, e := range entries {
			w.t.Errorf("outside the volume the agent of %s wrote %s", m.node, e.Name())
		}
		all, err := os.ReadDir(filepath.Dir(m.home))
		if err != nil {
			w.t.Error(err)
		}
		for _, e := range all {
			if !strings.Contains(" config.yaml home kubeconfig models ", " "+e.Name()+" ") {
				w.t.Errorf("beside its files %s has %s", m.node, e.Name())
			}
		}
	}
}
