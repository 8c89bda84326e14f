//go:build linux

package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/machine/wire"
)

// ErrLost is returned when a command's machine ended, or its connection broke, before the command did.
var ErrLost = errors.New("the machine was lost while the command ran")

// Result is what a command wrote and how it ended.
type Result struct {
	Stdout, Stderr string
	// Output is both, in the order in which they arrived: that of one stream against the other is not exact.
	Output string
	// ExitCode is 128 and the signal's number for a command that a signal ended.
	ExitCode int
	// Signal is what ended the command, or 0.
	Signal syscall.Signal
}

// Process is a command that runs in a machine. Its methods are safe for concurrent use.
type Process struct {
	conn net.Conn
	done chan struct{}

	mu                     sync.Mutex
	stdout, stderr, output strings.Builder
	result                 Result
	err                    error
}

// Run runs a bash script as root and waits for its end. A code other than 0 is no error. When the context ends first,
// the script is killed and the result has what it wrote until then.
func (m *Machine) Run(ctx context.Context, script string) (Result, error) {
	p, err := m.Start(ctx, script)
	if err != nil {
		return Result{}, err
	}
	defer p.Close()
	return p.Wait(ctx)
}

// Output runs a bash script as root and returns its standard output. A code other than 0 is an error, with the output.
func (m *Machine) Output(ctx context.Context, script string) (string, error) {
	result, err := m.Run(ctx, script)
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("run %q on %s: exit code %d: %s", script, m.config.Name, result.ExitCode, strings.TrimSpace(result.Output))
	}
	return result.Stdout, nil
}

// Start starts a bash script as root, with additional variables (NAME=value). The context bounds the start only; the
// script runs until it ends, or Close.
func (m *Machine) Start(ctx context.Context, script string, env ...string) (*Process, error) {
	k := m.running()
	if k == nil {
		return nil, fmt.Errorf("run a command on %s: %w", m.config.Name, ErrLost)
	}
	conn, err := m.dial(ctx)
	for err != nil {
		select {
		case <-k.exited:
			return nil, fmt.Errorf("run a command on %s: %w", m.config.Name, ErrLost)
		case <-ctx.Done():
			return nil, fmt.Errorf("run a command on %s: %w (%w)", m.config.Name, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond): // a busy machine, or a paused one
		}
		conn, err = m.dial(ctx)
	}
	if err := wire.WriteJSON(conn, wire.KindStart, wire.Command{Script: script, Env: env}); err != nil {
		return nil, errors.Join(fmt.Errorf("run a command on %s: %w", m.config.Name, err), conn.Close())
	}
	p := &Process{conn: conn, done: make(chan struct{})}
	go p.read()
	go func() {
		select {
		case <-p.done:
		case <-k.exited:
			p.Close() // a dead kernel closes no connections
		}
	}()
	return p, nil
}

// read takes frames until the command or the connection has ended.
func (p *Process) read() {
	defer close(p.done)
	for {
		kind, payload, err := wire.Read(p.conn)
		if err != nil {
			p.end(wire.Exit{}, fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		switch kind {
		case wire.KindStdout, wire.KindStderr:
			p.take(kind, payload)
		case wire.KindExit:
			var exit wire.Exit
			err := json.Unmarshal(payload, &exit)
			if err == nil && exit.Error != "" {
				err = errors.New(exit.Error)
			}
			p.end(exit, err)
			return
		default:
			p.end(wire.Exit{}, fmt.Errorf("%w: it sent a frame of kind %q", ErrLost, kind))
			return
		}
	}
}

func (p *Process) take(kind wire.Kind, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.output.Write(payload)
	if kind == wire.KindStdout {
		p.stdout.Write(payload)
	} else {
		p.stderr.Write(payload)
	}
}

func (p *Process) end(exit wire.Exit, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.ExitCode, p.result.Signal, p.err = exit.Code, syscall.Signal(exit.Signal), err
}

// Result returns what the command has written so far. How it ended is valid once Done is closed.
func (p *Process) Result() Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	result := p.result
	result.Stdout, result.Stderr, result.Output = p.stdout.String(), p.stderr.String(), p.output.String()
	return result
}

// Done returns a channel that is closed when the command has ended, or was lost.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the command's end. The error is ErrLost if the machine ended first, and the context's if that did; the
// command runs on then.
func (p *Process) Wait(ctx context.Context) (Result, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return p.Result(), fmt.Errorf("wait for a command in a machine: %w; it wrote: %s", ctx.Err(), p.Result().Output)
	}
	result := p.Result()
	p.mu.Lock()
	defer p.mu.Unlock()
	return result, p.err
}

// Signal sends a signal to every process of the command's group, as a terminal does on Ctrl-C.
func (p *Process) Signal(s syscall.Signal) error {
	return wire.WriteJSON(p.conn, wire.KindSignal, wire.Signal{Number: int(s)})
}

// Close ends the connection. A command that still runs is killed, with its group.
func (p *Process) Close() { _ = p.conn.Close() }
