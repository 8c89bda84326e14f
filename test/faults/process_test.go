package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"
)

// process is one life of the agent.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	// ending says that the harness ends it.
	ending atomic.Bool
	// stopped says that it gets no processor time.
	stopped atomic.Bool
	done    chan struct{} // closed when it has ended
	logFrom int64         // where its part of the log begins
}

// startAgent starts the agent as a kubelet would; w.agentMu is held.
func (w *world) startAgent() {
	log, err := os.OpenFile(w.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		w.fail("open the agent's log: %v", err)
		return
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		w.fail("open the agent's log: %v", err)
		return
	}
	cmd := exec.Command(stoker, "agent", "-v", "--config", w.configPath(), "--store", w.disk.dir, "--node-name", w.node,
		"--gpus", "simulated:dgxh200", "--kubeconfig", w.kubeconfig, "--listen", "127.0.0.1:0")
	cmd.Env = []string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH"), "HF_ENDPOINT=" + w.source.URL(), "HF_HUB_DISABLE_IMPLICIT_TOKEN=1"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, started: time.Now(), done: make(chan struct{}), logFrom: from}
	running := make(chan struct{})
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		defer close(p.done)
		err := ordeal.RunTied(cmd, func() { close(running) })
		if !p.ending.Load() {
			w.agentEnded(p, err)
		}
	}()
	select {
	case <-running:
		w.agent.Store(p)
	case <-p.done:
	}
}

// agentEnded judges an end that nobody asked for.
func (w *world) agentEnded(p *process, err error) {
	w.restartDue.Store(true)
	if why := w.mayFailToStart(); why != "" && time.Since(p.started) < 10*time.Second {
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
	_ = p.cmd.Process.Signal(signal) // it may have ended
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		w.fail("the agent did not end within 20 s of %s", signal)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	// In its first moments it ends as any program does that has not asked for the
	// signal yet.
	young := time.Since(p.started) < time.Second && p.cmd.ProcessState.ExitCode() == -1
	if code := p.cmd.ProcessState.ExitCode(); signal == syscall.SIGTERM && code != 0 && !young && w.mayFailToStart() == "" {
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
		select {
		case <-p.done:
		default:
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
	_ = p.cmd.Process.Signal(signal) // it may have ended
}

func (w *world) logPath() string    { return filepath.Join(w.dir, "agent.log") }
func (w *world) configPath() string { return filepath.Join(w.dir, "config", "config.yaml") }

var (
	crash  = regexp.MustCompile(`(?m)^(panic: |fatal error: |goroutine \d+ \[|WARNING: DATA RACE|SIGSEGV)`)
	listen = regexp.MustCompile(`msg="serve metrics" address=(\S+)`)
)

// readLog looks whether the agent's log tells of a crash.
func (w *world) readLog() {
	log, err := os.ReadFile(w.logPath())
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			w.fail("read the agent's log: %v", err)
		}
		return
	}
	if at := crash.FindIndex(log); at != nil {
		w.fail("the agent crashed:\n%s", log[at[0]:min(len(log), at[0]+4000)])
	}
}

// watchHealth asks the agent whether its loop turns until ctx ends: it must,
// whatever happens to disk and API server.
func (w *world) watchHealth(ctx context.Context) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for w.tick(ctx, 500*time.Millisecond) {
		p := w.agent.Load()
		if p == nil || time.Since(p.started) < 2*time.Second || p.stopped.Load() {
			continue
		}
		address := w.address(p)
		if address == "" {
			continue
		}
		err := askHealth(ctx, client, address)
		select {
		case <-p.done:
		default:
			if err != nil && ctx.Err() == nil && !p.ending.Load() && !p.stopped.Load() {
				w.fail("the agent is not healthy: %v", err)
			}
		}
	}
}

func (w *world) address(p *process) string {
	log, err := os.ReadFile(w.logPath())
	if err != nil || int64(len(log)) < p.logFrom {
		return ""
	}
	found := listen.FindSubmatch(log[p.logFrom:])
	if found == nil {
		return ""
	}
	return string(found[1])
}

func askHealth(ctx context.Context, client *http.Client, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body) // what it says is for people
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body.String())
	}
	return nil
}
