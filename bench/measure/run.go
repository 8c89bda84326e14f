//go:build linux

package measure

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Command is a program to run. Its environment is Env and nothing of ours.
type Command struct {
	Args  []string
	Env   []string
	Dir   string
	Stdin string
	// Start replaces exec.Cmd.Start, for programs that run elsewhere than here
	// (in another network namespace); nil means here.
	Start func(*exec.Cmd) error
}

// Usage is what one run cost.
type Usage struct {
	// Wall is from before the start until the end was seen.
	Wall time.Duration
	// CPU is user and system time of the process and of its children that it
	// waited for.
	CPU time.Duration
	// PeakRSS is the most resident memory in bytes, pages of the program's own
	// file included. It is the process's VmHWM as last sampled, not the
	// ru_maxrss of its end: that one begins with the memory of the process
	// that forked it.
	PeakRSS int64
	// PeakAnon is the most anonymous memory in bytes seen in samples: what
	// the program itself allocated.
	PeakAnon int64
}

// sampleEvery is how often memory is looked at. A look costs some 20 us.
const sampleEvery = 5 * time.Millisecond

// killGrace is how long a program may take to end after an interrupt.
const killGrace = 5 * time.Second

// Run runs c to its end. An error has the end of what c wrote. When ctx ends, c
// and its process group are interrupted, then killed; if we die, it is killed.
func Run(ctx context.Context, c Command) (Usage, error) {
	// The parent-death signal comes when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := ctx.Err(); err != nil {
		return Usage{}, err
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	Tie(cmd)
	start := cmd.Start
	if c.Start != nil {
		start = func() error { return c.Start(cmd) }
	}
	began := time.Now()
	if err := start(); err != nil {
		return Usage{}, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	stop, sampled := make(chan struct{}), make(chan Usage, 1)
	go func() { sampled <- sample(cmd.Process.Pid, stop) }()
	err := cmd.Wait()
	wall := time.Since(began)
	close(stop)
	usage := <-sampled
	usage.Wall = wall
	if cmd.ProcessState != nil {
		usage.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	// What is left of its group, whoever forgot to wait for it.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if ctx.Err() != nil {
		return usage, fmt.Errorf("run %s: %w", c.Args[0], context.Cause(ctx))
	}
	if err != nil {
		return usage, fmt.Errorf("run %s: %w: %s", c.Args[0], err, output.String())
	}
	return usage, nil
}

// Tie makes cmd, not yet started, the leader of a process group that is
// interrupted and then killed with cmd's context, and killed with us. The
// goroutine that starts it must hold its thread until it ended.
func Tie(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = killGrace
}

// sample watches a process's memory until stop is closed.
func sample(pid int, stop <-chan struct{}) Usage {
	var peak Usage
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		now, err := memory(pid)
		if err == nil {
			peak.PeakRSS = max(peak.PeakRSS, now.PeakRSS)
			peak.PeakAnon = max(peak.PeakAnon, now.PeakAnon)
		}
		select {
		case <-stop:
			return peak
		case <-tick.C:
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

const tailSize = 2 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

// String is the end as one line.
func (t *tail) String() string {
	b := t.b[max(0, len(t.b)-tailSize):]
	return strings.Join(strings.Fields(string(bytes.ToValidUTF8(b, nil))), " ")
}
