//go:build linux

package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// HostAddress is the test's address on the machines' network: what listens there, machines reach.
	HostAddress = "10.9.0.254"
	// Subnet holds the addresses of the test and of every machine.
	Subnet = "10.9.0.0/24"
	// bridge joins the machines.
	bridge = "machines"
	// controlHost is the test's address on the links that carry commands, one to each machine.
	controlHost = "10.9.1.254"
)

// Network is the network that machines are booted on: a bridge in this process's network namespace, with the test at
// HostAddress. It is safe for concurrent use.
type Network struct {
	image  Image
	dir    string
	initrd string

	mu       sync.Mutex
	machines []*Machine
}

// NewNetwork makes the network, brings loopback up and prepares dir, an empty directory for logs and for what machines
// need. It changes the network and the mounts of the namespaces that it is called in, so they must be a sandbox's. There
// can be one network in each.
func NewNetwork(ctx context.Context, image Image, dir string) (*Network, error) {
	n := &Network{image: image, dir: dir}
	for _, path := range []string{n.path("memory"), n.path("sockets")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
	}
	// The machines' memory is a file there. A container's /dev/shm may be too small.
	if err := unix.Mount("tmpfs", n.path("memory"), "tmpfs", 0, "size=100%"); err != nil {
		return nil, fmt.Errorf("mount a file system for machines' memory: %w", err)
	}
	initrd, err := buildInitrd(ctx, dir)
	if err != nil {
		return nil, err
	}
	n.initrd = initrd
	return n, runIP(ctx,
		"link set lo up",
		// With an address of its own the bridge does not take one of its ports'.
		"link add "+bridge+" address 02:00:0a:09:00:fe type bridge",
		"address add "+HostAddress+"/24 dev "+bridge,
		"link set "+bridge+" up",
	)
}

// Close ends every machine, as a power cut does.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, m := range n.machines {
		errs = append(errs, m.Kill())
	}
	return errors.Join(errs...)
}

func (n *Network) path(elements ...string) string {
	return filepath.Join(append([]string{n.dir}, elements...)...)
}

// add registers a machine, unless one that runs has its name or number, and makes its two interfaces: one on the bridge
// and one for commands.
func (n *Network) add(ctx context.Context, m *Machine) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	config := m.config
	for _, other := range n.machines {
		if other.config.Name != config.Name && other.config.N != config.N {
			continue
		}
		select {
		case <-other.Exited():
		default:
			return fmt.Errorf("%s (10.9.0.%d) runs already", other.config.Name, other.config.N)
		}
	}
	data, control := config.tap(), config.controlTap()
	for _, name := range []string{data, control} {
		// An earlier machine's.
		if _, err := net.InterfaceByName(name); err == nil {
			if err := runIP(ctx, "link delete "+name); err != nil {
				return err
			}
		}
	}
	n.machines = append(n.machines, m)
	return runIP(ctx,
		"tuntap add dev "+data+" mode tap",
		"link set "+data+" master "+bridge,
		"link set "+data+" up",
		"tuntap add dev "+control+" mode tap",
		"address add "+controlHost+" peer "+config.controlAddress()+"/32 dev "+control,
		"link set "+control+" up",
		// No question who has the address: one that is asked before the machine is up delays the first connection.
		"neighbour replace "+config.controlAddress()+" lladdr "+config.hardwareAddress(1)+" dev "+control+" nud permanent",
	)
}

// runIP runs commands of ip, in order.
func runIP(ctx context.Context, commands ...string) error {
	for _, command := range commands {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("set up the machines' network: ip %s: %w: %s", command, err, out)
		}
	}
	return nil
}
