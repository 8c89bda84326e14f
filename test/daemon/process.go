package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"
)

// Options are what an agent is started with.
type Options struct {
	Binary, Config, Store, Node, Kubeconfig string
	// Verbose: with -v.
	Verbose bool
	// Env is its environment; nil is this process's.
	Env []string
	// Log gets what it writes.
	Log *Log
}

// Process is one life of an agent.
type Process struct {
	Started time.Time
	cmd     *exec.Cmd
	log     *Log
	from    int // where its part of the log begins
	done    chan struct{}
	err     error // how it ended; valid once done is closed
}

// Start starts an agent in a process group of its own. It dies with this process.
func Start(o Options) (*Process, error) {
	args := []string{"agent"}
	if o.Verbose {
		args = append(args, "-v")
	}
	args = append(args, "--config", o.Config, "--store", o.Store, "--node-name", o.Node, "--gpus", "simulated:dgxh200",
		"--kubeconfig", o.Kubeconfig, "--listen", "127.0.0.1:0")
	cmd := exec.Command(o.Binary, args...) //nolint:noctx // it lives until it is ended
	cmd.Env, cmd.Stdout, cmd.Stderr = o.Env, o.Log, o.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{Started: time.Now(), cmd: cmd, log: o.Log, from: o.Log.Len(), done: make(chan struct{})}
	running := make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = ordeal.RunTied(cmd, func() { close(running) })
	}()
	select {
	case <-running:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("start the agent of %s: %w", o.Node, p.err)
	}
}

// PID is its number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how it ended; call it when Done is closed.
func (p *Process) Err() error { return p.err }

// ExitCode is what it has ended with, -1 after a signal; call it when Done is closed.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Ended says whether it has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal; one that has ended takes none.
func (p *Process) Signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended
}

// Log is what it has written.
func (p *Process) Log() string { return p.log.From(p.from) }

var (
	listens = regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`)
	crash   = regexp.MustCompile(`(?m)^(panic: |fatal error: |goroutine \d+ \[|WARNING: DATA RACE|SIGSEGV)`)
)

// Crash is where it tells of a crash; empty: nowhere.
func (p *Process) Crash() string { return CrashIn(p.Log()) }

// CrashIn returns the part of an agent's log that tells of a crash; empty: none does.
func CrashIn(text string) string {
	at := crash.FindStringIndex(text)
	if at == nil {
		return ""
	}
	return text[at[0]:min(len(text), at[0]+4000)]
}

// ErrSilent is an agent that does not say yet where it listens.
var ErrSilent = errors.New("it does not listen yet")

// Get reads a page of the agent's own, as a kubelet or Prometheus does; ErrSilent.
func (p *Process) Get(ctx context.Context, path string) (string, error) {
	address := listens.FindStringSubmatch(p.Log())
	if address == nil {
		return "", ErrSilent
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address[1]+path, http.NoBody)
	if err != nil {
		return "", err
	}
	req.Close = true // nothing of it may be left when the tests end
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := io.Copy(&body, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return body.String(), fmt.Errorf("%s answers %s: %s", path, resp.Status, body.String())
	}
	return body.String(), nil
}

// Healthy asks as a kubelet does; ErrSilent.
func (p *Process) Healthy(ctx context.Context) error {
	_, err := p.Get(ctx, "/healthz")
	return err
}

// Field reads a line of /proc/PID/status.
func (p *Process) Field(name string) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			return string(bytes.TrimSpace(rest)), nil
		}
	}
	return "", fmt.Errorf("there is no %s", name)
}
