package ordeal

import (
	"net"
	"sync"
)

// GateMode is what becomes of connections.
type GateMode int

const (
	// GateOpen lets everything through.
	GateOpen GateMode = iota
	// GateClosed refuses new connections and has cut those that there were.
	GateClosed
	// GateHangs takes connections and lets nothing through in either direction.
	GateHangs
)

// Gate is a listener whose connections can be refused, cut and made to hang.
type Gate struct {
	net.Listener
	// buffer is how many bytes the kernel may hold of what is sent; 0 is its own
	// choice.
	buffer int

	mu      sync.Mutex
	mode    GateMode
	changed chan struct{} // closed when mode changes
	conns   map[*gatedConn]struct{}
}

// NewGate makes one that is open. buffer is how many bytes the kernel may hold of what
// is sent; 0 is its own choice.
func NewGate(l net.Listener, buffer int) *Gate {
	return &Gate{Listener: l, buffer: buffer, changed: make(chan struct{}), conns: map[*gatedConn]struct{}{}}
}

// Accept implements net.Listener.
func (g *Gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tcp, ok := c.(*net.TCPConn); ok && g.buffer > 0 {
			_ = tcp.SetWriteBuffer(g.buffer) // only makes counting less sharp
		}
		g.mu.Lock()
		if g.mode == GateClosed {
			g.mu.Unlock()
			_ = c.Close()
			continue
		}
		gated := &gatedConn{Conn: c, gate: g, closed: make(chan struct{})}
		g.conns[gated] = struct{}{}
		g.mu.Unlock()
		return gated, nil
	}
}

// Set changes the mode.
func (g *Gate) Set(mode GateMode) {
	g.mu.Lock()
	g.mode = mode
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
	if mode == GateClosed {
		g.cut()
	}
}

// cut closes every connection that there is.
func (g *Gate) cut() {
	g.mu.Lock()
	conns := make([]*gatedConn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// pass returns when nothing hangs any more or closed is closed.
func (g *Gate) pass(closed <-chan struct{}) {
	for {
		g.mu.Lock()
		hangs, changed := g.mode == GateHangs, g.changed
		g.mu.Unlock()
		if !hangs {
			return
		}
		select {
		case <-changed:
		case <-closed:
			return
		}
	}
}

type gatedConn struct {
	net.Conn
	gate   *Gate
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.gate.pass(c.closed)
	return n, err
}

// Write implements net.Conn.
func (c *gatedConn) Write(p []byte) (int, error) {
	c.gate.pass(c.closed)
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *gatedConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		close(c.closed)
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		c.gate.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}
