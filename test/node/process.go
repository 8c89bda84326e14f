//go:build linux

package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a program that runs until it is stopped. The sandbox ends it in any case.
type process struct {
	name, log string
	cmd       *exec.Cmd
	done      chan struct{}
	err       error // how it ended; valid once done is closed
}

// startProcess starts a command whose output goes to the end of the file log.
func startProcess(name, log string, cmd *exec.Cmd) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// stopGrace is how long a process may take to end before it is killed.
const stopGrace = 20 * time.Second

// stop asks the process to end and waits until it is gone. That it had ended before is an error.
func (p *process) stop() error {
	if err := p.ended(); err != nil {
		return err
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(stopGrace):
		return errors.Join(fmt.Errorf("stop %s: it did not end within %s", p.name, stopGrace), p.cmd.Process.Kill())
	}
}

// ended is an error with the end of its log if the process has ended.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %w\n%s", p.name, errors.Join(errors.New("it should run"), p.err), tail(p.log, 30))
	default:
		return nil
	}
}

// tail is the last lines of a file.
func tail(path string, count int) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-count):], []byte("\n"))
}
