package hf_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// The variables of both generations of the Hub's own client, and our own settings.
// SSL_CERT_FILE is read once a process: the command line's tests have it.
func TestPrivateAuthority(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: fetchertest.Mirror{Direct: true}})
	push(t, hub, tiny())
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	certificate := authority.Server(t, time.Now().Add(time.Hour), "127.0.0.1")
	endpoint := "https://" + fetchertest.StartTLS(t, certificate, strings.TrimPrefix(hub.URL(), "http://"))
	bundle, other := authority.Bundle(t), fetchertest.NewAuthority(t, "Other CA").Bundle(t)
	missing := filepath.Join(t.TempDir(), "none.pem")
	for name, c := range map[string]struct {
		environment map[string]string
		access      fetcher.Access
		kind        error
		says        string
	}{
		"nothing":                   {nil, fetcher.Access{}, fetcher.ErrRefused, "signed by an unknown authority; name a file with that authority's certificate in SSL_CERT_FILE, or in access.caBundle"},
		"REQUESTS_CA_BUNDLE":        {map[string]string{"REQUESTS_CA_BUNDLE": bundle}, fetcher.Access{}, nil, ""},
		"CURL_CA_BUNDLE":            {map[string]string{"CURL_CA_BUNDLE": bundle}, fetcher.Access{}, nil, ""},
		"the first of the two":      {map[string]string{"REQUESTS_CA_BUNDLE": other, "CURL_CA_BUNDLE": bundle}, fetcher.Access{}, fetcher.ErrRefused, "add the authority's certificate to " + other},
		"a directory":               {map[string]string{"REQUESTS_CA_BUNDLE": filepath.Dir(bundle)}, fetcher.Access{}, nil, ""},
		"beside the other client's": {map[string]string{"REQUESTS_CA_BUNDLE": bundle, "SSL_CERT_FILE": other}, fetcher.Access{}, nil, ""},
		"caBundle":                  {map[string]string{"REQUESTS_CA_BUNDLE": other}, fetcher.Access{CABundle: bundle}, nil, ""},
		"for every source":          {map[string]string{httpsource.CABundleVariable: bundle}, fetcher.Access{}, nil, ""},
		"insecure":                  {nil, fetcher.Access{Insecure: true}, nil, ""},
		"no file":                   {map[string]string{"REQUESTS_CA_BUNDLE": missing}, fetcher.Access{}, fetcher.ErrMisconfigured, missing},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			for _, variable := range []string{"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", httpsource.CABundleVariable} {
				t.Setenv(variable, c.environment[variable])
			}
			c.access.Endpoint = endpoint
			d, err := hf.FromEnvironment(c.access, hf.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.CloseIdleConnections)
			if c.kind != nil {
				_, err := d.List(t.Context(), source(""))
				if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v, want %q that says %q", err, c.kind, c.says)
				}
				return
			}
			got, err := fetchertest.ReadFrom(t.Context(), d, object(t, d, weights), 0)
			if err != nil || !bytes.Equal(got, tiny()[weights]) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
}
