package httpsource_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// noProxies clears the variables that name proxies.
func noProxies(t *testing.T) {
	t.Helper()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
}

func TestProxy(t *testing.T) {
	for name, c := range map[string]struct {
		environment string // NAME=VALUE, separated by spaces
		url, want   string
	}{
		"none":                    {"", "https://hub.test", ""},
		"by scheme":               {"HTTPS_PROXY=http://s:1 HTTP_PROXY=http://p:2", "https://hub.test", "http://s:1"},
		"by the other scheme":     {"HTTPS_PROXY=http://s:1 HTTP_PROXY=http://p:2", "http://hub.test", "http://p:2"},
		"all":                     {"ALL_PROXY=socks5://a:3", "https://hub.test", "socks5://a:3"},
		"all, plain":              {"ALL_PROXY=socks5h://a:3", "http://hub.test", "socks5h://a:3"},
		"all, lower case":         {"all_proxy=a:3", "http://hub.test", "http://a:3"},
		"lower case first":        {"all_proxy=http://b:4 ALL_PROXY=http://a:3", "http://hub.test", "http://b:4"},
		"the scheme's own first":  {"HTTPS_PROXY=http://s:1 all_proxy=http://a:3", "https://hub.test", "http://s:1"},
		"not for another scheme":  {"HTTP_PROXY=http://p:2", "https://hub.test", ""},
		"none for this host":      {"ALL_PROXY=http://a:3 NO_PROXY=.test", "https://hub.test", ""},
		"none at all":             {"ALL_PROXY=http://a:3 no_proxy=*", "https://hub.test", ""},
		"this machine":            {"ALL_PROXY=http://a:3", "https://127.0.0.1:8", ""},
		"metadata":                {"ALL_PROXY=http://a:3 HTTP_PROXY=http://p:2", "http://169.254.169.254/latest", ""},
		"Google's metadata":       {"HTTP_PROXY=http://p:2", "http://metadata.google.internal/x", ""},
		"unknown scheme":          {"ALL_PROXY=socks4://u:secret@a:3", "https://hub.test", "error"},
		"no host":                 {"HTTPS_PROXY=http://", "https://hub.test", "error"},
		"no URL":                  {"HTTPS_PROXY=http://u:secret@a:port", "https://hub.test", "error"},
		"wrong, and not for this": {"HTTPS_PROXY=ftp://a NO_PROXY=hub.test", "https://hub.test", ""},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			noProxies(t)
			variable := ""
			for setting := range strings.FieldsSeq(c.environment) {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv(name, value)
				if variable == "" {
					variable = name
				}
			}
			u, err := url.Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			got, err := httpsource.Proxy()(&http.Request{URL: u})
			if c.want == "error" {
				if err == nil || !strings.Contains(err.Error(), variable) || strings.Contains(err.Error(), "secret") {
					t.Errorf("it is %v, %v; want an error that names %s", got, err, variable)
				}
				e := httpsource.Operation{Verb: "list"}.Broken("hub.test", err)
				if !errors.Is(e, fetcher.ErrMisconfigured) {
					t.Errorf("%v is no wrong configuration", e)
				}
				return
			}
			if err != nil || got == nil && c.want != "" || got != nil && got.String() != c.want {
				t.Errorf("it is %v, %v; want %q", got, err, c.want)
			}
		})
	}
}

// What a proxy forbids is not tried again, and the error names the proxy and the
// variable, but not its password.
func TestRefusedByProxy(t *testing.T) {
	raw := func(t *testing.T, status string, header ...string) string {
		t.Helper()
		return "http://user:a-proxys-password@" + fetchertest.StartRaw(t, func(string) string { return fetchertest.RawAnswer(status, "", header...) })
	}
	for name, c := range map[string]struct {
		proxy    func(t *testing.T) string
		variable string
		url      string
		kind     error
		says     string
	}{
		"wants credentials":           {func(t *testing.T) string { return raw(t, "407 No") }, "HTTPS_PROXY", "https://hub.test", fetcher.ErrRefused, "answered 407"},
		"wants credentials over HTTP": {func(t *testing.T) string { return raw(t, "407 No") }, "ALL_PROXY", "http://hub.test", fetcher.ErrRefused, "answered 407"},
		"forbids":                     {func(t *testing.T) string { return raw(t, "403 No") }, "all_proxy", "https://hub.test", fetcher.ErrRefused, "answered 403"},
		"does not reach it":           {func(t *testing.T) string { return raw(t, "502 No") }, "https_proxy", "https://hub.test", fetcher.ErrTransient, "answered 502"},
		"is asked too often":          {func(t *testing.T) string { return raw(t, "429 No") }, "https_proxy", "https://hub.test", fetcher.ErrTransient, "answered 429"},
		"forbids over HTTP":           {func(t *testing.T) string { return raw(t, "403 No") }, "HTTP_PROXY", "http://hub.test", fetcher.ErrRefused, "if it is not the proxy that refuses, ask whoever runs hub.test"},
		"Squid forbids": {func(t *testing.T) string {
			return raw(t, "403 No", "X-Squid-Error: ERR_ACCESS_DENIED 0", "X-Request-Id: 1")
		}, "HTTP_PROXY", "http://hub.test", fetcher.ErrRefused, "whoever runs the proxy let this machine through"},
		"Squid does not reach it":  {func(t *testing.T) string { return raw(t, "503 No", "X-Squid-Error: ERR_DNS_FAIL 0") }, "HTTP_PROXY", "http://hub.test", fetcher.ErrTransient, "answered 503"},
		"SOCKS, wants credentials": {func(t *testing.T) string { return startSOCKS(t, 0xff, 0) }, "ALL_PROXY", "http://hub.test", fetcher.ErrRefused, "wants credentials"},
		"SOCKS, forbids":           {func(t *testing.T) string { return startSOCKS(t, 0, 2) }, "HTTPS_PROXY", "https://hub.test", fetcher.ErrRefused, "does not allow it"},
		"SOCKS, does not reach it": {func(t *testing.T) string { return startSOCKS(t, 0, 5) }, "ALL_PROXY", "https://hub.test", fetcher.ErrTransient, "does not reach it"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			noProxies(t)
			proxy := c.proxy(t)
			t.Setenv(c.variable, proxy)
			base := httpsource.NewTransport()
			t.Cleanup(base.CloseIdleConnections)
			resp, err := get(t, httpsource.Bounds{}.Transport(base, httpsource.AnyShape), c.url)
			if err == nil {
				t.Fatalf("answered %s", resp)
			}
			e := httpsource.Operation{Verb: "list", Origin: "hf://org/tiny"}.Broken("hub.test", err)
			if !errors.Is(e, c.kind) || !strings.Contains(e.Error(), c.says) || strings.Contains(e.Error(), "password@") || strings.Contains(e.Error(), "a-proxys") {
				t.Errorf("%v; want %v that says %q", e, c.kind, c.says)
			}
			at, err := url.Parse(proxy)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(e.Error(), "the proxy "+at.Host+" ("+c.variable+") ") {
				t.Errorf("%v does not name the proxy and %s", e, c.variable)
			}
		})
	}
}

// A refusal that the source wrote stays the source's, whatever proxy it came through.
func TestRefusedBehindProxy(t *testing.T) {
	for name, header := range map[string]string{
		"Hub": "X-Error-Code: GatedRepo", "Hub's message": "X-Error-Message: Access to this resource is disabled.",
		"S3": "X-Amz-Request-Id: 1", "S3's page": "Content-Type: application/xml", "Google": "Content-Type: application/json; charset=UTF-8",
	} {
		t.Run(name, func(t *testing.T) {
			noProxies(t)
			t.Setenv("HTTP_PROXY", "http://"+fetchertest.StartRaw(t, func(string) string {
				return fetchertest.RawAnswer("403 No", "", header, "Via: 1.1 squid")
			}))
			base := httpsource.NewTransport()
			t.Cleanup(base.CloseIdleConnections)
			if _, err := get(t, httpsource.Bounds{}.Transport(base, httpsource.AnyShape), "http://hub.test"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A SOCKS proxy carries requests, and looks names up itself.
func TestSOCKS(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }))
	t.Cleanup(server.Close)
	for _, scheme := range []string{"socks5", "socks5h"} {
		noProxies(t)
		t.Setenv("ALL_PROXY", strings.Replace(startSOCKS(t, 0, 0), "socks5", scheme, 1))
		base := httpsource.NewTransport()
		_, port, err := net.SplitHostPort(server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := get(t, httpsource.Bounds{}.Transport(base, httpsource.AnyShape), "http://hub.test:"+port)
		base.CloseIdleConnections()
		if err != nil || got != "hub.test:"+port {
			t.Errorf("%s: %q, %v", scheme, got, err)
		}
	}
}

func get(t *testing.T, rt http.RoundTripper, address string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// startSOCKS serves SOCKS 5 (RFC 1928) on this machine until t ends: method is how it
// wants to know its clients (0: not at all, 0xff: in no way that they offer), reply what
// it answers to CONNECT. It connects to the port that was asked for on 127.0.0.1,
// whatever the name.
func startSOCKS(t *testing.T, method, reply byte) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				if err := serveSOCKS(t, conn, method, reply); err != nil && !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		served.Wait()
	})
	return "socks5://" + listener.Addr().String()
}

func serveSOCKS(t *testing.T, conn net.Conn, method, reply byte) error {
	t.Helper()
	defer conn.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, conn, int64(head[1])); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{5, method}); err != nil || method != 0 {
		return err
	}
	request := make([]byte, 5)
	if _, err := io.ReadFull(conn, request); err != nil {
		return err
	}
	if request[3] != 3 {
		return errors.New("asked for an address, not for a name")
	}
	name := make([]byte, int(request[4])+2)
	if _, err := io.ReadFull(conn, name); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{5, reply, 0, 1, 127, 0, 0, 1, 0, 0}); err != nil || reply != 0 {
		return err
	}
	port := strconv.Itoa(int(binary.BigEndian.Uint16(name[len(name)-2:])))
	to, err := new(net.Dialer).DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer to.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(to, conn) // ends with the client
		_ = to.Close()
	}()
	_, _ = io.Copy(conn, to)
	_ = conn.Close()
	<-done
	return nil
}
