package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is one component of the control plane, running as a child that does not outlive this process.
type process struct {
	name    string
	logPath string
	pid     int
	// stdin is our end of the pipe whose closing ends the child, for systems that have no signal for a parent's death.
	stdin *os.File
	done  chan struct{}
	// err is how the process ended; valid once done is closed.
	err error
}

// startProcess starts binary with the component's name as first argument; output goes to the end of logPath.
func startProcess(binary, name, logPath string, args []string) (*process, error) {
	return launch(binary, name, logPath, append([]string{name}, args...), []string{"CONTROLPLANE_EXIT_WITH_STDIN=1"})
}

// launch starts a program with these arguments, and this environment beside our own.
func launch(binary, name, logPath string, args, env []string) (*process, error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer logFile.Close()
	childStdin, stdin, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for %s: %w", name, err)
	}
	defer childStdin.Close()

	//nolint:noctx // It lives until stop, longer than the context of whoever starts it.
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childStdin, logFile, logFile
	cmd.SysProcAttr = tied(syscall.SIGKILL)

	p := &process{name: name, logPath: logPath, stdin: stdin, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux sends the parent-death signal when the thread that forked ends, not the process. A goroutine that is
		// locked to its thread until the child is gone keeps that thread alive.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		_ = stdin.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// stop asks the process to end, kills it after stopGrace, and returns when it is gone. It returns an error if
// the process had ended by itself before.
func (p *process) stop() error {
	defer p.stdin.Close()
	select {
	case <-p.done:
		return p.exitError()
	default:
	}
	// Signals go to the process group that tied made: should a component ever start something, it goes as well.
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		<-p.done
	}
	return nil
}

// exitError says how the process ended, with the end of its log. Only valid once done is closed.
func (p *process) exitError() error {
	how := errors.New("it exited with status 0")
	if p.err != nil {
		how = p.err
	}
	return fmt.Errorf("%s ended by itself: %w\n%s", p.name, how, logTail(p.logPath))
}

// logTail returns the end of a log for an error message, under a line that names the file.
func logTail(path string) string {
	const limit = 16 << 10
	file, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf("(its log cannot be read: %v)", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > limit {
		if _, err := file.Seek(-limit, io.SeekEnd); err != nil {
			return fmt.Sprintf("(its log cannot be read: %v)", err)
		}
	}
	content, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return fmt.Sprintf("(its log cannot be read: %v)", err)
	}
	return fmt.Sprintf("the end of %s:\n%s", path, lastLines(content))
}

// lastLines returns the last 20 lines of content: enough to hold an error and what led to it.
func lastLines(content []byte) string {
	const count = 20
	lines := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}
