//go:build linux

package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/machine/wire"
)

const (
	// bootTimeout is how long a machine may take to serve commands.
	bootTimeout = time.Minute
	// killTimeout is how long a killed kernel may take to be gone.
	killTimeout = 20 * time.Second
	// consoleTail is how many bytes of the console's log an error carries.
	consoleTail = 4 << 10
)

// Machine is one kernel. Its methods are safe for concurrent use, but for Kill, Restart and Close of its network
// at the same time.
type Machine struct {
	network *Network
	config  Config
	console string

	mu     sync.Mutex
	kernel *kernel
}

// kernel is one run of a machine, from its boot to its end.
type kernel struct {
	process *os.Process
	// exited is closed when the kernel has ended; state is set then.
	exited chan struct{}
	state  *os.ProcessState
}

// Boot boots a machine and waits until it serves commands and has its shares, for at most a minute. The context bounds
// that time only: the machine runs until Kill, Close of the network, or the end of the sandbox. On an error nothing
// runs, and the error carries the end of the console's log.
func (n *Network) Boot(ctx context.Context, config Config) (*Machine, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("boot machine %q: %w", config.Name, err)
	}
	m := &Machine{network: n, config: config, console: n.path(config.Name + ".console")}
	if err := n.add(ctx, m); err != nil {
		return nil, fmt.Errorf("boot machine %s: %w", config.Name, err)
	}
	if err := m.boot(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Restart ends the machine as a power cut does, if it runs, and boots it again with the same disks, address and shares.
// Everything but its disks is as at the first boot.
func (m *Machine) Restart(ctx context.Context) error {
	if err := m.Kill(); err != nil {
		return err
	}
	return m.boot(ctx)
}

func (m *Machine) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	k, err := m.start()
	if err == nil {
		m.mu.Lock()
		m.kernel = k
		m.mu.Unlock()
		err = m.waitReady(ctx, k)
	}
	if err == nil {
		err = m.mountShares(ctx)
	}
	if err != nil {
		console := m.Console()
		console = console[max(0, len(console)-consoleTail):]
		return errors.Join(fmt.Errorf("boot machine %s: %w; its console:\n%s", m.config.Name, err, console), m.Kill())
	}
	return nil
}

// start starts the kernel as the first process of a process namespace of its own: the host's processes that stand for
// the machine's end with it.
func (m *Machine) start() (*kernel, error) {
	// The sockets of an earlier boot make the kernel take another name.
	if err := os.RemoveAll(m.network.path("sockets", m.config.Name)); err != nil {
		return nil, err
	}
	console, err := os.OpenFile(m.console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = console.Close() }()
	cmd := exec.Command(m.network.image.Kernel, m.config.arguments(m.network)...) //nolint:noctx // Kill ends it
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + m.network.dir, "TMPDIR=" + m.network.path("memory")}
	cmd.Dir = m.network.dir
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true, Pdeathsig: syscall.SIGKILL}
	return startKernel(cmd)
}

func (m *Machine) waitReady(ctx context.Context, k *kernel) error {
	for {
		conn, err := m.dial(ctx)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-k.exited:
			return fmt.Errorf("the kernel ended: %s", k.state)
		case <-ctx.Done():
			return fmt.Errorf("wait for the machine to serve commands: %w (%w)", ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dial connects to the server of commands, for which it takes at most 200 ms.
func (m *Machine) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 200 * time.Millisecond}
	return dialer.DialContext(ctx, "tcp4", net.JoinHostPort(m.config.controlAddress(), strconv.Itoa(wire.Port)))
}

func (m *Machine) mountShares(ctx context.Context) error {
	for _, share := range m.config.Shares {
		options := share.Host
		if !share.Writable {
			options = "ro," + options
		}
		// The new system calls know hostfs's path by a name that only new kernels have.
		script := fmt.Sprintf("mkdir -p %[1]s && LIBMOUNT_FORCE_MOUNT2=always mount -t hostfs -o %[2]s none %[1]s", quote(share.Guest), quote(options))
		if _, err := m.Output(ctx, script); err != nil {
			return fmt.Errorf("mount %s at %s: %w", share.Host, share.Guest, err)
		}
	}
	return nil
}

// Name returns the machine's host name.
func (m *Machine) Name() string { return m.config.Name }

// Address returns the machine's address on the network, without a port.
func (m *Machine) Address() string { return m.config.address() }

// Console returns what the machine's kernel and first process wrote to the console, of all its boots.
func (m *Machine) Console() string {
	content, err := os.ReadFile(m.console)
	if err != nil {
		return err.Error()
	}
	return strings.ToValidUTF8(string(content), "?")
}

// quote returns a word of a shell script.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
