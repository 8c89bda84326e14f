//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/machine/wire"
)

const (
	// addressEnv holds the address that commands are served at.
	addressEnv = "STOKER_GUEST_ADDRESS"
	// lingering is how long output is passed on after a command has ended, when what it started in the background still
	// holds the pipe.
	lingering = time.Second
)

// serve serves commands until the machine ends.
func serve() error {
	address := net.JoinHostPort(os.Getenv(addressEnv), strconv.Itoa(wire.Port))
	listener, err := net.Listen("tcp4", address) //nolint:noctx // it serves as long as the machine lives
	if err != nil {
		return err
	}
	if err := os.Unsetenv(addressEnv); err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if err := serveCommand(conn); err != nil {
				fmt.Fprintln(os.Stderr, "guest: serve a command:", err)
			}
		}()
	}
}

// serveCommand runs one command. When the connection ends first, the command is killed.
func serveCommand(conn net.Conn) error {
	kind, payload, err := wire.Read(conn)
	if errors.Is(err, io.EOF) { // somebody asked whether this machine is up
		return nil
	}
	if err != nil {
		return err
	}
	var command wire.Command
	if kind != wire.KindStart {
		return fmt.Errorf("the first frame is %q", kind)
	}
	if err := json.Unmarshal(payload, &command); err != nil {
		return err
	}
	out := &frames{conn: conn}
	cmd := exec.Command("/bin/bash", "-c", command.Script) //nolint:noctx // the connection's end ends it
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = stream{out, wire.KindStdout}, stream{out, wire.KindStderr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = lingering
	if err := cmd.Start(); err != nil {
		return out.writeJSON(wire.KindExit, wire.Exit{Error: err.Error()})
	}
	group := &group{id: cmd.Process.Pid}
	go group.follow(conn)
	err = cmd.Wait()
	group.end()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return out.writeJSON(wire.KindExit, wire.Exit{Error: err.Error()})
	}
	result := wire.Exit{Code: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		result.Signal = int(status.Signal())
		result.Code = 128 + result.Signal
	}
	return out.writeJSON(wire.KindExit, result)
}

// group is the process group of a command.
type group struct {
	id    int
	mu    sync.Mutex
	ended bool
}

// follow sends the signals that arrive until the connection ends, and then kills what still runs.
func (g *group) follow(conn net.Conn) {
	for {
		kind, payload, err := wire.Read(conn)
		if err != nil {
			g.signal(syscall.SIGKILL)
			return
		}
		var s wire.Signal
		if kind == wire.KindSignal && json.Unmarshal(payload, &s) == nil {
			g.signal(syscall.Signal(s.Number))
		}
	}
}

func (g *group) signal(s syscall.Signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// Another command's group may have the number later.
	if !g.ended {
		_ = syscall.Kill(-g.id, s) // it may be gone
	}
}

func (g *group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

// frames writes frames of several streams to one connection.
type frames struct {
	mu   sync.Mutex
	conn net.Conn
}

func (f *frames) write(kind wire.Kind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return wire.Write(f.conn, kind, payload)
}

func (f *frames) writeJSON(kind wire.Kind, value any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return wire.WriteJSON(f.conn, kind, value)
}

// stream passes on what is written to it as frames of one kind.
type stream struct {
	frames *frames
	kind   wire.Kind
}

func (s stream) Write(p []byte) (int, error) {
	if err := s.frames.write(s.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
