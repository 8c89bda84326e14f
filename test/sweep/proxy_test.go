package sweep

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// proxy stands between a client and the API server, and can go away with
// everything that goes through it.
type proxy struct {
	url string

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

func startProxy(b *bench, server string) *proxy {
	b.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	p := &proxy{url: "https://" + listener.Addr().String(), conns: map[net.Conn]bool{}}
	target := strings.TrimPrefix(server, "https://")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			to, err := d.DialContext(b.Context(), "tcp", target)
			if err != nil || !p.keep(from, to) {
				_ = from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					p.drop(from, to)
				})
			}
		}
	})
	b.Cleanup(func() {
		if err := listener.Close(); err != nil {
			b.Error(err)
		}
		p.cut()
		wg.Wait()
	})
	return p
}

// keep takes note of a pair of connections; false: there is no way through.
func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.down {
			_ = c.Close()
			continue
		}
		p.conns[c] = true
	}
	return !p.down
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// cut ends every connection and lets no other through.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for c := range p.conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// attempts are the sweeper's questions whether the API server is there.
type attempts struct{ answered, failed atomic.Int64 }

// counted counts them.
type counted struct {
	next http.RoundTripper
	*attempts
}

// RoundTrip implements http.RoundTripper.
func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	switch {
	case r.URL.Query().Get("limit") != "1":
	case err != nil:
		c.failed.Add(1)
	default:
		c.answered.Add(1)
	}
	return resp, err
}
