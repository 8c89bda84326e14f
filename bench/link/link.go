//go:build linux

package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of the two ends, of a network that is for documentation.
const (
	ClientIP = "192.0.2.1"
	ServerIP = "192.0.2.2"
)

// Shape is what a link does to packets, each way the same.
type Shape struct {
	// Rate is in bits per second of whole frames; at least 1.
	Rate int64
	// RTT is the time that a packet and its answer take on an empty link.
	RTT time.Duration
	// Loss is the probability with which an IP packet is lost.
	Loss float64
}

// queue is how many bytes wait before more are dropped: a round trip's worth,
// as routers are built, and at least 64 KiB.
func (s Shape) queue() int64 {
	return max(64<<10, int64(float64(s.Rate)/8*s.RTT.Seconds()))
}

// Link is a link between two namespaces.
type Link struct {
	Client, Server *Namespace

	middle  *Namespace
	sockets []*os.File
	pipes   []*pipe
	wait    sync.WaitGroup
}

// New makes the namespaces and the link between them, which works until Close.
func New(ctx context.Context, s Shape) (*Link, error) {
	l := &Link{}
	if err := l.build(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("make a link: %w", err), l.Close())
	}
	return l, nil
}

func (l *Link) build(ctx context.Context, s Shape) error {
	for _, n := range []**Namespace{&l.Client, &l.Server, &l.middle} {
		var err error
		if *n, err = newNamespace(); err != nil {
			return err
		}
	}
	ends := []struct {
		inside              *Namespace
		device, ip, address string
		peer, peerAddress   string
	}{
		{l.Client, "client", ClientIP, "02:00:00:00:00:01", ServerIP, "02:00:00:00:00:02"},
		{l.Server, "server", ServerIP, "02:00:00:00:00:02", ClientIP, "02:00:00:00:00:01"},
	}
	for _, e := range ends {
		for _, step := range []struct {
			in   *Namespace
			args []string
		}{
			{l.middle, []string{"link", "add", e.device, "type", "veth", "peer", "name", "eth0", "address", e.address, "netns", e.inside.path()}},
			{l.middle, []string{"link", "set", e.device, "up"}},
			{e.inside, []string{"address", "add", e.ip + "/24", "dev", "eth0"}},
			{e.inside, []string{"link", "set", "lo", "up"}},
			{e.inside, []string{"link", "set", "eth0", "up"}},
			// Known, so that no lost question costs a second.
			{e.inside, []string{"neighbour", "replace", e.peer, "lladdr", e.peerAddress, "dev", "eth0", "nud", "permanent"}},
		} {
			if err := step.in.ip(ctx, step.args...); err != nil {
				return err
			}
		}
		if err := e.inside.Do(tune); err != nil {
			return err
		}
		err := l.middle.Do(func() error {
			socket, err := openRaw(e.device)
			l.sockets = append(l.sockets, socket)
			return err
		})
		if err != nil {
			return err
		}
	}
	for i, from := range l.sockets {
		p := newPipe(from, l.sockets[1-i], s)
		l.pipes = append(l.pipes, p)
		l.wait.Go(p.read)
		l.wait.Go(p.write)
	}
	return nil
}

// tune sets up this thread's namespace.
func tune() error {
	if err := offloadOff("eth0"); err != nil {
		return err
	}
	// Each connection begins without what another one learned.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_no_metrics_save", []byte("1"), 0); err != nil {
		return fmt.Errorf("set up TCP: %w", err)
	}
	return nil
}

// openRaw opens a socket for all frames of a device of this thread's namespace.
func openRaw(device string) (*os.File, error) {
	nic, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: nic.Index}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set up a packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// Reset begins the random losses anew, each way with a seed of its own made of
// this one, so that whoever comes next meets the same.
func (l *Link) Reset(seed uint64) {
	for i, p := range l.pipes {
		p.reset(seed, uint64(i))
	}
}

// Stats are counts of frames since the link was made, both ways together.
type Stats struct {
	// Delivered arrived; Lost were lost at random; Dropped found the queue full.
	Delivered, Lost, Dropped int64
	// Overrun were dropped because this process was too slow: what was
	// measured is not what was asked for.
	Overrun int64
}

// Stats returns the counts so far.
func (l *Link) Stats() Stats {
	var s Stats
	for _, p := range l.pipes {
		p.count(&s)
	}
	return s
}

// Close ends the link. The namespaces go when no process is in them any more.
func (l *Link) Close() error {
	var errs []error
	for _, s := range l.sockets {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	l.wait.Wait()
	for _, n := range []*Namespace{l.Client, l.Server, l.middle} {
		if n != nil {
			errs = append(errs, n.close())
		}
	}
	return errors.Join(errs...)
}
