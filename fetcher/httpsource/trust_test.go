package httpsource_test

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// startSecure serves with a certificate of the authority for 127.0.0.1.
func startSecure(t *testing.T, authority *fetchertest.Authority) string {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{authority.Server(t, time.Now().Add(time.Hour), "127.0.0.1")}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// exchange asks with the transport, and returns the failure that a driver makes of it.
func exchange(t *testing.T, transport http.RoundTripper, url string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return httpsource.Operation{Verb: "list", Origin: "s3://bucket"}.Broken("the server", err)
	}
	return resp.Body.Close()
}

func TestTrust(t *testing.T) {
	ours, other := fetchertest.NewAuthority(t, "Example Corp CA"), fetchertest.NewAuthority(t, "Other CA")
	url := startSecure(t, ours)
	bundle, wrong, dir := ours.Bundle(t), other.Bundle(t), t.TempDir()
	write(t, filepath.Join(dir, "other.crt"), other.PEM())
	write(t, filepath.Join(dir, "ours.pem"), ours.PEM())
	write(t, filepath.Join(dir, "README"), []byte("no certificate"))
	if err := os.Mkdir(filepath.Join(dir, "..data"), 0o700); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, nil)
	missing := filepath.Join(t.TempDir(), "ca.crt")
	for name, c := range map[string]struct {
		trust httpsource.Trust
		kind  error
		says  string
	}{
		"system":          {httpsource.Trust{}, fetcher.ErrRefused, "in SSL_CERT_FILE, or in access.caBundle of a list entry (--ca-bundle)"},
		"variable":        {httpsource.Trust{Variable: "AWS_CA_BUNDLE"}, fetcher.ErrRefused, "in AWS_CA_BUNDLE, or in access.caBundle"},
		"beside":          {httpsource.Trust{Beside: []string{bundle}}, nil, ""},
		"instead":         {httpsource.Trust{Instead: bundle}, nil, ""},
		"directory":       {httpsource.Trust{Beside: []string{dir}}, nil, ""},
		"either":          {httpsource.Trust{Instead: wrong, Beside: []string{bundle}}, nil, ""},
		"another beside":  {httpsource.Trust{Beside: []string{wrong}}, fetcher.ErrRefused, "add the authority's certificate to " + wrong},
		"another instead": {httpsource.Trust{Instead: wrong}, fetcher.ErrRefused, "add the authority's certificate to " + wrong + ", which stands for"},
		"insecure":        {httpsource.Trust{Insecure: true}, nil, ""},
		"missing":         {httpsource.Trust{Beside: []string{missing}}, fetcher.ErrMisconfigured, missing + ": no such file"},
		"empty":           {httpsource.Trust{Instead: empty}, fetcher.ErrMisconfigured, empty + " has no PEM certificate"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Setenv("SSL_CERT_FILE", "")
			transport := httpsource.NewTransportFor(c.trust)
			t.Cleanup(transport.CloseIdleConnections)
			err := exchange(t, transport, url)
			if c.kind == nil && err != nil || c.kind != nil && (!errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("error is %v, want %v that says %q", err, c.kind, c.says)
			}
		})
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A renewed authority takes effect without a restart, and a bundle that is being
// replaced ends nothing.
func TestBundleChanges(t *testing.T) {
	first, second := fetchertest.NewAuthority(t, "First"), fetchertest.NewAuthority(t, "Second")
	firstURL, secondURL := startSecure(t, first), startSecure(t, second)
	bundle := filepath.Join(t.TempDir(), "ca.crt")
	replace := func(content []byte) {
		write(t, bundle+".new", content)
		if err := os.Rename(bundle+".new", bundle); err != nil {
			t.Fatal(err)
		}
	}
	transport := httpsource.NewTransportFor(httpsource.Trust{Beside: []string{bundle}})
	t.Cleanup(transport.CloseIdleConnections)
	for i, step := range []struct {
		content       []byte
		first, second bool
	}{
		{first.PEM(), true, false},
		{second.PEM(), false, true},
		{nil, false, true}, // not written yet
		{append(first.PEM(), second.PEM()...), true, true},
	} {
		replace(step.content)
		if err := exchange(t, transport, firstURL); (err == nil) != step.first {
			t.Errorf("step %d: the first authority: %v", i, err)
		}
		if err := exchange(t, transport, secondURL); (err == nil) != step.second {
			t.Errorf("step %d: the second authority: %v", i, err)
		}
	}
	transport.Replace(first.Bundle(t))
	replace(second.PEM())
	for _, url := range []string{firstURL, secondURL} {
		if err := exchange(t, transport, url); err != nil {
			t.Error(err)
		}
	}
}

func TestTrustFor(t *testing.T) {
	t.Setenv(httpsource.CABundleVariable, "/etc/all.pem")
	got := httpsource.TrustFor(fetcher.Access{CABundle: "/etc/one.pem", Insecure: true}, "AWS_CA_BUNDLE")
	if len(got.Beside) != 2 || got.Beside[0] != "/etc/all.pem" || got.Beside[1] != "/etc/one.pem" || !got.Insecure || got.Variable != "AWS_CA_BUNDLE" || got.Instead != "" {
		t.Errorf("it is %+v", got)
	}
	t.Setenv(httpsource.CABundleVariable, "")
	if got := httpsource.TrustFor(fetcher.Access{}, ""); len(got.Beside) != 0 {
		t.Errorf("it is %+v", got)
	}
}
