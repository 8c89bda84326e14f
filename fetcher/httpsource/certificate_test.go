package httpsource_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// A certificate that is not accepted is refused at once: the next try would meet the
// same one.
func TestCertificateIsRefused(t *testing.T) {
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(authority.PEM())
	tomorrow := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		certificate tls.Certificate
		roots       *x509.CertPool
		says        string
	}{
		"authority": {authority.Server(t, tomorrow, "127.0.0.1"), x509.NewCertPool(), "signed by an unknown authority; name a file with that authority's certificate in SSL_CERT_FILE"},
		"name":      {authority.Server(t, tomorrow, "hub.example.com"), known, "is for another name; write the endpoint with a name that the server's certificate has"},
		"expired":   {authority.Server(t, time.Now().Add(-time.Minute), "127.0.0.1"), known, "has expired, or is not valid yet; check this machine's clock"},
		"good":      {authority.Server(t, tomorrow, "127.0.0.1"), known, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			server.TLS = &tls.Config{Certificates: []tls.Certificate{c.certificate}, MinVersion: tls.VersionTLS12}
			server.StartTLS()
			t.Cleanup(server.Close)
			transport := httpsource.NewTransport()
			transport.TLSClientConfig = &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}
			t.Cleanup(transport.CloseIdleConnections)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failed := httpsource.Operation{Verb: "list", Origin: "hf://org/name"}.Broken("hub.example.com", err)
			if !errors.Is(failed, fetcher.ErrRefused) || !errors.Is(failed, httpsource.ErrCertificate) || !strings.Contains(failed.Error(), c.says) {
				t.Errorf("%v, want a refusal that says %q", failed, c.says)
			}
		})
	}
}
