package attacks_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// secured is a way in which a server treats one connection to its port for https.
type secured func(conn net.Conn, good *tls.Config)

// refuse answers one request over TLS with a refusal, which ends a pull.
func refuse(conn net.Conn, good *tls.Config) {
	answered(conn, good, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

// answered reads a request over TLS and answers it.
func answered(conn net.Conn, config *tls.Config, answer string) {
	secure := tls.Server(conn, config)
	if _, err := http.ReadRequest(bufio.NewReader(secure)); err == nil {
		_, _ = io.WriteString(secure, answer)
		_ = secure.Close()
	}
}

// with is the good configuration with a change.
func with(change func(*tls.Config)) secured {
	return func(conn net.Conn, good *tls.Config) {
		config := good.Clone()
		change(config)
		refuse(conn, config)
	}
}

// sends waits for the client's hello and sends bytes that need not be TLS.
func sends(text string) secured {
	return func(conn net.Conn, _ *tls.Config) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, text)
	}
}

// inside sends bytes below TLS, after a good handshake and a request.
func inside(text string) secured {
	return func(conn net.Conn, good *tls.Config) {
		secure := tls.Server(conn, good)
		if _, err := http.ReadRequest(bufio.NewReader(secure)); err == nil {
			_, _ = io.WriteString(conn, text)
		}
	}
}

// serveTLS treats the first connections by attack, times of them or all if that is 0,
// and refuses what comes behind them. It returns the address.
func serveTLS(t *testing.T, attack secured, times int32, good *tls.Config) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		group.Wait()
	})
	var begun atomic.Int32
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				treat := attack
				if n := begun.Add(1); times > 0 && n > times {
					treat = refuse
				}
				treat(conn, good)
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite() // a client that has not read it would lose it
					_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
					_, _ = io.Copy(io.Discard, conn)
				}
			})
		}
	})
	return listener.Addr().String()
}

// However a server treats TLS, a pull ends soon, says what is wrong, and asks again only
// where that may help.
func TestTLS(t *testing.T) {
	authority, later := fetchertest.NewAuthority(t, "Example Corp CA"), time.Now().Add(time.Hour)
	good := &tls.Config{Certificates: []tls.Certificate{authority.Server(t, later, "127.0.0.1")}, MinVersion: tls.VersionTLS12}
	presents := func(authority *fetchertest.Authority, until time.Time, names ...string) secured {
		certificate := authority.Server(t, until, names...)
		return with(func(c *tls.Config) { c.Certificates = []tls.Certificate{certificate} })
	}
	bundle := authority.Bundle(t)
	for _, a := range []struct {
		name   string
		attack secured
		times  int32
		plain  bool // it is asked for by http
		says   string
	}{
		{"certificate of another host", presents(authority, later, "hub.example.com"), 0, false, "is for another name"},
		{"expired certificate", presents(authority, time.Now().Add(-time.Minute), "127.0.0.1"), 0, false, "has expired, or is not valid yet"},
		{"certificate of an unknown authority", presents(fetchertest.NewAuthority(t, "Nobody"), later, "127.0.0.1"), 0, false, "unknown authority"},
		{"plain HTTP", sends("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nthis is plain"), 0, false, "it does not speak TLS; write http://"},
		{"no TLS", sends(strings.Repeat("abc", 1000)), 0, false, "it does not speak TLS; write http://"},
		{"TLS on a port for http", sends("\x15\x03\x01\x00\x02\x02\x46"), 0, true, "it speaks TLS, and was asked without; write https://"},
		{"TLS 1.0", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }), 0, false, "protocol version not supported; let the server speak TLS 1.2"}, //nolint:gosec // the attack
		{"hello of TLS 1.0", sends("\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01" + strings.Repeat("r", 32) + "\x00\xc0\x13\x00"), 0, false, "an old TLS; let the server speak TLS 1.2"},
		{"no common cipher", with(func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_RC4_128_SHA}
		}), 0, false, "handshake failure; let the server"},
		{"certificate of the client demanded", with(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }), 0, false, "it demands a certificate of the client"},
		{"closed in the handshake", sends(""), 1, false, "403"},
		{"nothing in the handshake", func(conn net.Conn, _ *tls.Config) { _, _ = io.Copy(io.Discard, conn) }, 1, false, "no answer in time"},
		{"cut in the handshake", sends("\x16\x03\x03\x00\x7a\x02\x00"), 1, false, "403"},
		{"empty records without an end", sends(strings.Repeat("\x16\x03\x03\x00\x00", 100)), 1, false, "TLS: unexpected message"},
		{"cut in a record", inside("\x17\x03\x03\x40\x00abc"), 1, false, "403"},
		{"wrong record", inside("\x17\x03\x03\x00\x20" + strings.Repeat("x", 32)), 1, false, "403"},
		{"closed by an alert in the clear", inside("\x15\x03\x03\x00\x02\x01\x00"), 1, false, "403"},
		{"plain HTTP in TLS", inside("HTTP/1.1 200 OK\r\n\r\n{}"), 1, false, "it does not speak TLS"},
		{"renegotiation", renegotiates(1), 0, false, "negotiates TLS anew"},
		{"renegotiation without an end", renegotiates(1 << 20), 0, false, "negotiates TLS anew"},
	} {
		for _, source := range []string{hub, s3, gcs} {
			t.Run(strings.ReplaceAll(source[:2]+" "+a.name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				scheme := "https://"
				if a.plain {
					scheme = "http://"
				}
				env := append(sourceAt(scheme+serveTLS(t, a.attack, a.times, good)), "SSL_CERT_FILE="+bundle, "HF_TOKEN=hf_tokentokentoken")
				newWorld(t).pull(t, source[:2]+": TLS: "+a.name, env, source).expect(t, exitRefused, a.says)
			})
		}
	}
}

// Nothing leads from https to plain http: neither token nor question gets there.
func TestRedirectToPlainHTTP(t *testing.T) {
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	good := &tls.Config{Certificates: []tls.Certificate{authority.Server(t, time.Now().Add(time.Hour), "127.0.0.1")}, MinVersion: tls.VersionTLS12}
	bundle := authority.Bundle(t)
	for _, source := range []string{hub, s3, gcs} {
		for _, status := range []string{"301 Moved Permanently", "302 Found", "308 Permanent Redirect"} {
			t.Run(source[:2]+" "+status[:3], func(t *testing.T) {
				t.Parallel()
				var reached atomic.Bool
				plain := serve(t, func(io.Writer, int, *http.Request) { reached.Store(true) })
				leads := func(conn net.Conn, good *tls.Config) {
					answered(conn, good, "HTTP/1.1 "+status+"\r\nLocation: http://"+plain+"/elsewhere\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				}
				env := append(sourceAt("https://"+serveTLS(t, leads, 0, good)), "SSL_CERT_FILE="+bundle, "HF_TOKEN=hf_tokentokentoken")
				newWorld(t).pull(t, source[:2]+": TLS: "+status[:3]+" to plain http", env, source).expect(t, exitRefused, "")
				if reached.Load() {
					t.Error("the plain server was asked")
				}
			})
		}
	}
}
