package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// reservedPort is a free loopback port, held by a listener until its component is about to take it. Between the two
// somebody else may get it: Start notices and tries again with others.
type reservedPort struct {
	number   int
	listener net.Listener
}

func reservePort(ctx context.Context) (*reservedPort, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errors.Join(fmt.Errorf("find a free port: %s is no TCP address", listener.Addr()), listener.Close())
	}
	return &reservedPort{number: address.Port, listener: listener}, nil
}

// release frees the port for whoever comes next. Calling it again does nothing.
func (p *reservedPort) release() {
	_ = p.listener.Close()
}

func (p *reservedPort) String() string { return strconv.Itoa(p.number) }

// url is where a server on this port is reached.
func (p *reservedPort) url() string { return "https://127.0.0.1:" + p.String() }
