package faults

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/daemon"
)

// process is one life of the agent.
type process struct {
	*daemon.Process
	// ending says that the harness ends it.
	ending atomic.Bool
	// stopped says that it gets no processor time.
	stopped atomic.Bool
}

// startAgent starts the agent as a kubelet would; w.agentMu is held.
func (w *world) startAgent() {
	run, err := daemon.Start(daemon.Options{
		Binary: stoker, Config: w.configPath(), Store: w.disk.dir, Node: w.node, Kubeconfig: w.kubeconfig, Verbose: true, Log: &w.log,
		Env: []string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH"), "HF_ENDPOINT=" + w.source.URL(), "HF_HUB_DISABLE_IMPLICIT_TOKEN=1"},
	})
	if err != nil {
		w.fail("%v", err)
		return
	}
	p := &process{Process: run}
	w.agent.Store(p)
	w.wg.Go(func() {
		<-p.Done()
		if crash := p.Crash(); crash != "" {
			w.fail("the agent crashed:\n%s", crash)
		}
		if !p.ending.Load() {
			w.agentEnded(p, p.Err())
		}
	})
}

// agentEnded judges an end that nobody asked for.
func (w *world) agentEnded(p *process, err error) {
	w.restartDue.Store(true)
	if why := w.mayFailToStart(); why != "" && time.Since(p.Started) < 10*time.Second {
		w.note("the agent ended by itself (%v), which %s explains", err, why)
		return
	}
	w.fail("the agent ended by itself: %v", err)
}

// endAgent ends the agent with a signal and returns when it is gone. It does
// nothing if there is none.
func (w *world) endAgent(signal syscall.Signal) {
	w.agentMu.Lock()
	defer w.agentMu.Unlock()
	p := w.agent.Load()
	if p == nil {
		return
	}
	p.ending.Store(true)
	w.source.Killed()
	p.Signal(signal)
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.Done():
	case <-timer.C:
		w.fail("the agent did not end within 20 s of %s", signal)
		p.Signal(killSignal)
		<-p.Done()
	}
	// In its first moments it ends as any program does that has not asked for the
	// signal yet.
	young := time.Since(p.Started) < time.Second && p.ExitCode() == -1
	if code := p.ExitCode(); signal == syscall.SIGTERM && code != 0 && !young && w.mayFailToStart() == "" {
		w.fail("the agent ends with %d after SIGTERM", code)
	}
	w.agent.Store(nil)
	w.restartDue.Store(false)
	w.exposed() // from here on nobody can correct a label
}

// ensureAgent starts the agent if it does not run.
func (w *world) ensureAgent() {
	w.agentMu.Lock()
	defer w.agentMu.Unlock()
	if p := w.agent.Load(); p != nil {
		if !p.Ended() {
			return
		}
	}
	w.restartDue.Store(false)
	w.exposed()
	w.startAgent()
}

// signalAgent sends a signal that does not end it.
func (w *world) signalAgent(signal syscall.Signal) {
	p := w.agent.Load()
	if p == nil {
		return
	}
	p.stopped.Store(signal == syscall.SIGSTOP)
	p.Signal(signal)
}

func (w *world) configPath() string { return filepath.Join(w.dir, "config", "config.yaml") }

// watchHealth asks the agent whether its loop turns until ctx ends: it must,
// whatever happens to disk and API server.
func (w *world) watchHealth(ctx context.Context) {
	for w.tick(ctx, 500*time.Millisecond) {
		p := w.agent.Load()
		if p == nil || time.Since(p.Started) < 2*time.Second || p.stopped.Load() {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := p.Healthy(callCtx)
		cancel()
		if err != nil && !errors.Is(err, daemon.ErrSilent) && ctx.Err() == nil && !p.Ended() && !p.ending.Load() && !p.stopped.Load() {
			w.fail("the agent is not healthy: %v", err)
		}
	}
}
