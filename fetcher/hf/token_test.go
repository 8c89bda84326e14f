package hf_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// net/http would pass the token on to a subdomain, and to another port.
func TestTokenStaysAtItsOrigin(t *testing.T) {
	for _, cdn := range []string{"cdn.hub.test:80", "hub.test:81", "cdn.hub.test:81", "test:80", "hub.test.evil:80"} {
		t.Run(cdn, func(t *testing.T) { testTokenStaysAtItsOrigin(t, cdn) })
	}
}

func testTokenStaysAtItsOrigin(t *testing.T, cdn string) {
	t.Helper()
	hub := fetchertest.NewHub(fetchertest.HubOptions{CDNAuthority: cdn, Tokens: []string{token}})
	ctx, cancel := context.WithCancel(t.Context())
	if err := hub.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- hub.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true, Tokens: []string{token}})
	push(t, hub, tiny())
	transport := httpsource.NewTransport()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		target := map[string]string{"hub.test:80": hub.URL(), cdn: hub.CDNURL()}[addr]
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(target, "http://"))
	}
	d, err := hf.New(hf.Options{Endpoint: "http://hub.test", Transport: transport, Token: func() (string, error) { return token, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	obj := object(t, d, weights)
	for offset := range int64(3) { // the first by way of the Hub
		got, err := fetchertest.ReadFrom(t.Context(), d, obj, offset)
		if err != nil || !bytes.Equal(got, tiny()[weights][offset:]) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindCDN})); n != 3 {
		t.Errorf("%d requests at the CDN, want 3", n)
	}
	if leaks := hub.Leaks(); len(leaks) > 0 {
		t.Errorf("the token went to the CDN: %+v", leaks)
	}
	for _, r := range hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve}) {
		if !r.Authorized {
			t.Errorf("no token for %s", r.Path)
		}
	}
}

// The stand-in must see a leak, or the test above shows nothing.
func TestStandInSeesLeaks(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+token) // at every hop
		return http.DefaultTransport.RoundTrip(r)
	})}
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections) //nolint:errcheck,forcetypeassert // it is one
	hub.AddRepo(repoID, fetchertest.RepoOptions{Tokens: []string{token}})
	resp, err := client.Get(hub.URL() + "/" + repoID + "/resolve/main/" + weights)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || len(hub.Leaks()) != 1 {
		t.Errorf("the CDN answered %d and noted %d leaks, want 400 and 1", resp.StatusCode, len(hub.Leaks()))
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTokenFromEnvironment(t *testing.T) {
	file := func(t *testing.T, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "HF_TOKEN")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name    string
		env     map[string]string
		secret  string // content of HF_TOKEN in the credentials directory
		path    string // content of HF_TOKEN_PATH
		login   string // content of $HF_HOME/token
		allowed bool
		says    string
	}{
		{name: "none"},
		{name: "secret first", secret: token + "\n", env: map[string]string{"HF_TOKEN": "hf_wrong"}, allowed: true},
		{name: "secret without it", secret: " \n", env: map[string]string{"HF_TOKEN": token}, allowed: true},
		{name: "variable before file", env: map[string]string{"HF_TOKEN": " " + token + " "}, path: "hf_wrong", allowed: true},
		{name: "old variable", env: map[string]string{"HUGGING_FACE_HUB_TOKEN": token}, allowed: true},
		{name: "file before login", path: token + "\r\n", login: "hf_wrong", allowed: true},
		{name: "login", login: token, allowed: true},
		{name: "disabled", env: map[string]string{"HF_TOKEN": token, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}},
		{name: "line break inside", env: map[string]string{"HF_TOKEN": token + "\n" + token}, says: "HF_TOKEN"},
		{name: "line break in file", path: token + "\nx: y", says: "line break"},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
			push(t, hub, tiny())
			hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true, Tokens: []string{token}})
			home := t.TempDir()
			for name, value := range map[string]string{
				"HF_ENDPOINT": hub.URL(), "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", "HF_TOKEN_PATH": "", "HF_HOME": home,
				"HF_HUB_DISABLE_IMPLICIT_TOKEN": "",
			} {
				t.Setenv(name, value)
			}
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			var access fetcher.Access
			if c.secret != "" {
				access.CredentialsDir = filepath.Dir(file(t, c.secret))
			}
			if c.path != "" {
				t.Setenv("HF_TOKEN_PATH", file(t, c.path))
			}
			if c.login != "" {
				if err := os.WriteFile(filepath.Join(home, "token"), []byte(c.login), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d, err := hf.FromEnvironment(access, hf.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.CloseIdleConnections)
			_, err = d.List(t.Context(), source(""))
			if (err == nil) != c.allowed {
				t.Errorf("allowed is %v: %v", err == nil, err)
			}
			if wrong := c.says != ""; errors.Is(err, fetcher.ErrMisconfigured) != wrong {
				t.Errorf("the configuration is wrong: %v, want %v", !wrong, wrong)
			}
			if err != nil && (!errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), token)) {
				t.Errorf("error is %v, want a refusal that says %q and no token", errors.Is(err, fetcher.ErrRefused), c.says)
			}
		})
	}
}

// A rotated Secret takes effect without a restart.
func TestRotatedToken(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true, Tokens: []string{token}})
	dir := t.TempDir()
	d, err := hf.FromEnvironment(fetcher.Access{Endpoint: hub.URL(), CredentialsDir: dir}, hf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	for _, content := range []string{token, "hf_old", token} {
		allowed := content == token
		if err := os.WriteFile(filepath.Join(dir, "HF_TOKEN"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.List(t.Context(), source("")); (err == nil) != allowed {
			t.Errorf("allowed is %v, want %v: %v", err == nil, allowed, err)
		}
	}
	_, err = mustEnv(t, fetcher.Access{Endpoint: hub.URL(), CredentialsDir: filepath.Join(dir, "gone")}).List(t.Context(), source(""))
	if !errors.Is(err, fetcher.ErrMisconfigured) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("error is %v, want a wrong configuration that names the directory", err)
	}
}

func mustEnv(t *testing.T, access fetcher.Access) *hf.Driver {
	t.Helper()
	d, err := hf.FromEnvironment(access, hf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	return d
}

// A redirect from https to plain http would send a signed URL, and the bytes,
// in the clear.
func TestNoRedirectToPlainHTTP(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Tokens: []string{token}})
	push(t, hub, tiny())
	server := httptest.NewTLSServer(hub.HubHandler()) // its CDN has no TLS
	t.Cleanup(server.Close)
	d, err := hf.New(hf.Options{Endpoint: server.URL, Transport: server.Client().Transport, Token: func() (string, error) { return token, nil }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = fetchertest.ReadFrom(t.Context(), d, object(t, d, weights), 0)
	if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), "from https to plain http") {
		t.Errorf("error is %v, want one that speaks of plain http", err)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindCDN})); n != 0 {
		t.Errorf("%d requests went out in the clear", n)
	}
}

// What the environment has a mirror take to answer, by the client's own variables.
func TestHeaderTimeoutOfTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		etag, download string
		access         time.Duration
		want           time.Duration
		says           string
	}{
		{"", "", 0, 30 * time.Second, ""},
		{"10", "5", 0, 30 * time.Second, ""},
		{"", "120", 0, 2 * time.Minute, ""},
		{"1800", "120", 0, 30 * time.Minute, ""},
		{"86400", "86400", 0, time.Hour, ""},
		{"1800", "", time.Minute, time.Minute, ""},
		{"soon", "", 0, 0, `HF_HUB_ETAG_TIMEOUT is "soon", which is no number of seconds`},
	} {
		t.Setenv("HF_HUB_ETAG_TIMEOUT", c.etag)
		t.Setenv("HF_HUB_DOWNLOAD_TIMEOUT", c.download)
		synctest.Test(t, func(t *testing.T) {
			d, err := hf.FromEnvironment(fetcher.Access{Endpoint: "http://hub.test", HeaderTimeout: c.access}, hf.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})})
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v, want one that says %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: weights, Size: 10}}
			began := time.Now()
			_, err = d.Open(t.Context(), obj, 0, 10)
			if took := time.Since(began); took != c.want || err == nil {
				t.Errorf("%+v: it waits %s, %v", c, took, err)
			}
		})
	}
}
