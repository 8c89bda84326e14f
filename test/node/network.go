//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
)

const (
	// serviceAddress is where pods find the API server: the Service "kubernetes".
	serviceAddress = "10.0.0.1"
	// HostAddress is this machine for pods: what listens there, they reach.
	HostAddress = "10.0.1.1"
)

// Network is the forwarder that stands for kube-proxy.
type Network struct {
	listener net.Listener
	open     sync.WaitGroup
	stop     context.CancelFunc
}

// SetUpLoopback brings loopback up, with the addresses that pods use. A new network namespace comes without; a control
// plane needs it too.
func SetUpLoopback(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "replace", serviceAddress + "/32", "dev", "lo"},
		{"address", "replace", HostAddress + "/32", "dev", "lo"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("set up the network: ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// StartNetwork forwards connections with the Service "kubernetes" to the API server at target (host:port). Loopback
// must have been set up.
func StartNetwork(ctx context.Context, target string) (*Network, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", net.JoinHostPort(serviceAddress, "443"))
	if err != nil {
		return nil, fmt.Errorf("set up the network: %w", err)
	}
	forwarding, stop := context.WithCancel(context.WithoutCancel(ctx))
	n := &Network{listener: listener, stop: stop}
	n.open.Go(func() { n.accept(forwarding, target) })
	return n, nil
}

func (n *Network) accept(ctx context.Context, target string) {
	for {
		from, err := n.listener.Accept()
		if err != nil {
			return // closed
		}
		n.open.Go(func() { forward(ctx, from, target) })
	}
}

// forward joins a connection with a new one to target until either ends, or ctx does.
func forward(ctx context.Context, from net.Conn, target string) {
	defer from.Close()
	var dialer net.Dialer
	to, err := dialer.DialContext(ctx, "tcp4", target)
	if err != nil {
		return // the client sees its connection end
	}
	defer to.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = from.Close(), to.Close() })
	defer stop()
	var copying sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		copying.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_, _ = from.Close(), to.Close()
		})
	}
	copying.Wait()
}

// Stop ends the forwarder and its connections.
func (n *Network) Stop() error {
	n.stop()
	err := n.listener.Close()
	n.open.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
