package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var podAddress = netip.MustParseAddrPort("10.1.2.3:8000")

// serve is a pod at podAddress, answered by h on loopback, and the one who asks it. It counts connections.
func serve(t *testing.T, h http.HandlerFunc) *Asker {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return NewAsker(func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != podAddress.String() {
			t.Errorf("%s is connected to", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	})
}

func TestAskForAPage(t *testing.T) {
	page := publicPage(t, "load")
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for _, none := range []string{"Authorization", "Cookie", "Accept-Encoding", "Referer"} {
			if v := r.Header.Get(none); v != "" {
				t.Errorf("%s: %s is sent", none, v)
			}
		}
		if r.URL.Path != "/metrics" || r.Host != podAddress.String() {
			t.Errorf("%s of %s is asked for", r.URL, r.Host)
		}
		_, _ = io.WriteString(w, page)
	})
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:3128") // nobody answers there
	got, err := a.Page(t.Context(), podAddress, nil)
	if err != nil || string(got) != page {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestHostileAnswers(t *testing.T) {
	const secret = "do-not-repeat-me"
	for name, h := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/"+secret, http.StatusFound)
		},
		"an error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, http.StatusForbidden) },
		"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"without end": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(endless{}, MaxPage+100))
		},
		"a long header": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat(secret, 1<<12)) },
		"a broken body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, secret)
		},
		"another word":   hijack("HELLO " + secret + "\r\n\r\n"),
		"a broken chunk": hijack("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\n"),
		"nothing":        hijack(""),
	} {
		data, err := serve(t, h).Page(t.Context(), podAddress, nil)
		if err == nil || strings.Contains(err.Error(), secret) || len(err.Error()) > 200 {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func hijack(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h, ok := w.(http.Hijacker)
		if !ok {
			return
		}
		conn, _, err := h.Hijack()
		if err != nil {
			return
		}
		_, _ = fmt.Fprint(conn, answer)
		_ = conn.Close()
	}
}

// TestSlowAnswer: who sends a byte now and then is left when the caller's time is over, be it before the asker's own.
func TestSlowAnswer(t *testing.T) {
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w)
		_, _ = io.WriteString(w, "#")
		_ = flush.Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := a.Page(ctx, podAddress, nil); err == nil || !strings.Contains(err.Error(), "no whole answer") {
		t.Errorf("%v", err)
	}
}

func TestAddresses(t *testing.T) {
	node := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	errDialed := errors.New("dialed")
	a := NewAsker(func(context.Context, string, string) (net.Conn, error) { return nil, errDialed })
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	refused := []string{
		"127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1",
		"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7",
	}
	for _, addr := range own {
		if p, err := netip.ParsePrefix(addr.String()); err == nil {
			refused = append(refused, p.Addr().String())
		}
	}
	for _, ip := range refused {
		if _, err := a.Page(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(ip), 8000), node); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", ip, err)
		}
	}
	if _, err := a.Page(t.Context(), netip.AddrPort{}, node); !errors.Is(err, ErrAddress) {
		t.Errorf("no address: %v", err)
	}
	for _, ip := range []string{"10.1.2.3", "100.64.3.4", "192.168.9.9", "203.0.113.5", "fd12:3456::1", "2001:db8::8"} {
		if _, err := a.Page(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(ip), 8000), node); errors.Is(err, ErrAddress) || err == nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
}
