//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/stoker-project/stoker/bench/measure"
)

// server is a server of ours at work: a process, so that what it costs can be
// told from what a contender costs.
type server struct {
	cmd  *exec.Cmd
	stop context.CancelFunc
	done chan error
	// errors is what it wrote to standard error; whole after close.
	errors bytes.Buffer
}

// startServer starts a server by start (nil: here), and returns its standard
// output.
func startServer(ctx context.Context, args, env []string, start func(*exec.Cmd) error) (*server, *bufio.Reader, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &server{stop: stop, done: make(chan error, 1)}
	s.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	s.cmd.Env = env
	s.cmd.Stderr = &s.errors
	measure.Tie(s.cmd)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		stop()
		return nil, nil, err
	}
	if start == nil {
		start = (*exec.Cmd).Start
	}
	started := make(chan error)
	go func() {
		// The parent-death signal comes when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := start(s.cmd)
		started <- err
		if err == nil {
			<-ctx.Done()
			s.done <- s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		stop()
		return nil, nil, fmt.Errorf("start a server: %w", err)
	}
	return s, bufio.NewReader(out), nil
}

// startHub starts the Hub, which is this program, with the flags of serve.
func startHub(ctx context.Context, flags []string, start func(*exec.Cmd) error) (*server, served, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, served{}, err
	}
	s, out, err := startServer(ctx, append([]string{self, serveCommand}, flags...), os.Environ(), start)
	if err != nil {
		return nil, served{}, err
	}
	var says served
	line, err := out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &says)
	}
	if err != nil {
		err = errors.Join(err, s.close())
		return nil, served{}, fmt.Errorf("start the Hub: %w: %s", err, s.errors.String())
	}
	return s, says, nil
}

// close ends the server and returns when it has ended.
func (s *server) close() error {
	s.stop()
	err := <-s.done
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, context.Canceled) {
		err = nil // it was told to
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	return err
}

// pid is the server's process.
func (s *server) pid() int { return s.cmd.Process.Pid }
