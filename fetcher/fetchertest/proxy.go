package fetchertest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Proxy stands before a real server and breaks its answers as faults say. A
// request's File is its whole path, unescaped: match one with a '*' before the
// object's name. IgnoreRange and ExpiredSignature are not for it: a request that
// is signed cannot be changed on the way.
type Proxy struct {
	url string
	hub *Hub // for its faults and its log only
}

// StartProxy stands before the server at target ("http://HOST:PORT"), on a free
// port of 127.0.0.1, until tb ends.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	to, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p := &Proxy{url: "http://" + listener.Addr().String(), hub: NewHub(HubOptions{})}
	transport := &http.Transport{DisableCompression: true}
	server := &http.Server{Handler: p.handler(to, transport), ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
		transport.CloseIdleConnections()
	})
	return p
}

// URL is where the proxy listens.
func (p *Proxy) URL() string { return p.url }

// Inject puts a fault in force and returns a function that ends it.
func (p *Proxy) Inject(f Fault) (remove func()) { return p.hub.Inject(f) }

// Requests returns the requests answered so far that match.
func (p *Proxy) Requests(m Match) []Request { return p.hub.Requests(m) }

// BytesSent adds up the bodies of the requests that match.
func (p *Proxy) BytesSent(m Match) int64 { return p.hub.BytesSent(m) }

// ResetLog forgets the requests so far.
func (p *Proxy) ResetLog() { p.hub.ResetLog() }

func (p *Proxy) handler(to *url.URL, transport http.RoundTripper) http.Handler {
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.hub.serve(w, r, Request{Kind: KindOther, File: r.URL.Path}, func(a *answer) {
			forward := &httputil.ReverseProxy{
				Transport: transport, FlushInterval: -1, ErrorLog: quiet,
				Rewrite: func(pr *httputil.ProxyRequest) {
					pr.SetURL(to)
					pr.Out.Host = pr.In.Host // it is signed
				},
				ModifyResponse: func(resp *http.Response) error {
					if a.effect.wrongByte >= 0 {
						resp.Body = &flippedBody{resp.Body, a.effect.wrongByte - rangeStart(resp.Header)}
					}
					return nil
				},
			}
			forward.ServeHTTP(a, r)
		})
	})
}

// rangeStart is where in the file a body begins.
func rangeStart(h http.Header) int64 {
	first, _, _ := strings.Cut(strings.TrimPrefix(h.Get("Content-Range"), "bytes "), "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// flippedBody is a body with the byte after so many inverted.
type flippedBody struct {
	io.ReadCloser
	at int64
}

// Read implements io.Reader.
func (f *flippedBody) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 0xff
	}
	f.at -= int64(n)
	return n, err
}
