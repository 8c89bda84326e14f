package fetchertest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// StartServer runs somebody else's server, whose binary the environment variable
// names, until tb ends, and returns its address, HOST:PORT on loopback. args
// makes its arguments from a free port. Without the variable tb is skipped, and
// says how to get the server.
func StartServer(tb testing.TB, variable string, args func(port int) []string) string {
	tb.Helper()
	binary := os.Getenv(variable)
	if binary == "" {
		tb.Skip("SKIPPED: " + variable + " names no server; make test builds it and sets it")
	}
	// Between finding a free port and the server's taking it, another may.
	for try := 1; ; try++ {
		s := startProcess(tb, binary, args)
		err := s.ready(tb)
		if err == nil {
			tb.Cleanup(s.stop)
			return s.addr
		}
		s.stop()
		if try == 3 {
			tb.Fatalf("start %s: %v\n%s", binary, err, s.output.String())
		}
	}
}

// process is a server under test.
type process struct {
	addr   string
	cmd    *exec.Cmd
	output *bytes.Buffer
	// exited is closed when the server has ended, with err.
	exited chan struct{}
	err    error
}

func startProcess(tb testing.TB, binary string, args func(port int) []string) *process {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr, ok := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil || !ok {
		tb.Fatal(addr, err)
	}
	p := &process{addr: addr.String(), output: new(bytes.Buffer), exited: make(chan struct{})}
	// Not of tb's context: cleanups that need the server run after it has ended.
	p.cmd = exec.CommandContext(context.WithoutCancel(tb.Context()), binary, args(addr.Port)...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.Env = []string{"HOME=" + tb.TempDir(), "PATH=" + os.Getenv("PATH")}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	return p
}

// ready waits until the server accepts a connection.
func (p *process) ready(tb testing.TB) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*deadline)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("it listens not: %w", err)
		case <-tick.C:
		}
	}
}

// stop ends the server and returns when it has ended.
func (p *process) stop() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.exited
}
