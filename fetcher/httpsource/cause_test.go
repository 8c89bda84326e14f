package httpsource_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// What net/http and TLS say of a failure comes out in our own words.
func TestReword(t *testing.T) {
	const echoed = "an-echoed-credential"
	fetchertest.NoLookups(t)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	raw := func(answer string) string {
		return "http://" + fetchertest.StartRaw(t, func(string) string { return answer })
	}
	proxied := func(answer string) *http.Transport {
		transport := httpsource.NewTransport()
		proxy, err := url.Parse(raw(answer))
		if err != nil {
			t.Fatal(err)
		}
		proxy.User = url.UserPassword("someone", echoed)
		transport.Proxy = http.ProxyURL(proxy)
		return transport
	}
	for name, c := range map[string]struct {
		url       string
		transport *http.Transport
		says      string
		is        error
	}{
		"nothing":                 {url: raw(""), says: "closed without an answer", is: io.EOF},
		"nobody listens":          {url: "http://127.0.0.1:1", says: "connection refused", is: syscall.ECONNREFUSED},
		"no such host":            {url: "http://" + echoed + ".invalid", says: "its address cannot be looked up"},
		"untrusted certificate":   {url: secure.URL, says: "its certificate is signed by an unknown authority"},
		"no TLS":                  {url: strings.Replace(plain.URL, "http:", "https:", 1), says: "it does not speak TLS"},
		"status line":             {url: raw("HTTP/1.1 " + echoed + "\r\n\r\n"), says: "broken HTTP answer: status line"},
		"length":                  {url: raw(fetchertest.RawAnswer("200 OK", "", "Content-Length: "+echoed)), says: "broken HTTP answer: Content-Length"},
		"proxy wants credentials": {url: secure.URL, transport: proxied("HTTP/1.1 407 " + echoed + "\r\n\r\n"), says: "the proxy answered 407"},
		"proxy is broken":         {url: secure.URL, transport: proxied("HTTP/1.1 " + echoed + "\r\n\r\n"), says: "broken HTTP answer: status line"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			if c.transport == nil {
				c.transport = httpsource.NewTransport()
				c.transport.Proxy = nil
			}
			t.Cleanup(c.transport.CloseIdleConnections)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.transport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
				t.Fatal("it was answered")
			}
			cause := httpsource.Reword(err)
			if !strings.Contains(cause.Error(), c.says) || strings.Contains(cause.Error(), echoed) {
				t.Errorf("%v becomes %q, want one that says %q", err, cause, c.says)
			}
			if c.is != nil && !errors.Is(cause, c.is) {
				t.Errorf("%q is no %v", cause, c.is)
			}
			if again := httpsource.Reword(&url.Error{Op: "Get", URL: echoed, Err: cause}); again != cause {
				t.Errorf("reworded again, it is %q", again)
			}
		})
	}
	if cause := httpsource.Reword(context.DeadlineExceeded); cause.Error() != "no answer in time" {
		t.Errorf("a deadline is %q", cause)
	}
}

// Codes and request ids are shown if they have the shape of one.
func TestID(t *testing.T) {
	for text, want := range map[string]string{
		"RepoNotFound": "RepoNotFound", "Root=1-65f0-abc;0b1e": "Root=1-65f0-abc;0b1e", "tx00000.a_b-c": "tx00000.a_b-c", "": "",
		"two words": "", "quote\"": "", "<b>": "", "a/b": "", "a@b": "", "\x1b[31m": "", "ü": "", strings.Repeat("a", 129): "",
	} {
		if got := httpsource.ID(text); got != want {
			t.Errorf("of %q, %q is shown, want %q", text, got, want)
		}
	}
}

// A server's words are cut between words: half a secret would not be found.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"two\r\nlines\x1b[31m":                               "twolines[31m",
		strings.Repeat("a", 200):                             strings.Repeat("a", 200),
		strings.Repeat("a", 201):                             "...",
		strings.Repeat("a ", 95) + "half-of-this-credential": strings.Repeat("a ", 94) + "a...",
		"right\u202eto\u200bleft":                            "righttoleft",
	} {
		if got := httpsource.Plain(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestHost(t *testing.T) {
	for host, want := range map[string]string{
		"huggingface.co": "huggingface.co", "[::1]:8080": "[::1]:8080", "": "another host", "a b": "another host", strings.Repeat("a", 300): "another host",
	} {
		if got := httpsource.Host(&url.URL{Host: host}); got != want {
			t.Errorf("%q is shown as %q, want %q", host, got, want)
		}
	}
}
