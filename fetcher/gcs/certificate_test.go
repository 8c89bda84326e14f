package gcs_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

func TestPrivateAuthority(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "llama", map[string][]byte{"config.json": []byte("{}")})
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	certificate := authority.Server(t, time.Now().Add(time.Hour), "127.0.0.1")
	t.Setenv("STORAGE_EMULATOR_HOST", "https://"+fetchertest.StartTLS(t, certificate, strings.TrimPrefix(s.proxy.URL(), "http://")))
	bundle, missing := authority.Bundle(t), filepath.Join(t.TempDir(), "none.pem")
	for name, c := range map[string]struct {
		everywhere string
		access     fetcher.Access
		kind       error
		says       string
	}{
		"nothing":          {"", fetcher.Access{}, fetcher.ErrRefused, "signed by an unknown authority; name a file with that authority's certificate in SSL_CERT_FILE, or in access.caBundle"},
		"caBundle":         {"", fetcher.Access{CABundle: bundle}, nil, ""},
		"for every source": {bundle, fetcher.Access{}, nil, ""},
		"insecure":         {"", fetcher.Access{Insecure: true}, nil, ""},
		"no file":          {"", fetcher.Access{CABundle: missing}, fetcher.ErrMisconfigured, missing},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Setenv("SSL_CERT_FILE", "")
			t.Setenv(httpsource.CABundleVariable, c.everywhere)
			d, err := gcs.New(c.access, gcs.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.CloseIdleConnections)
			l, err := d.List(t.Context(), src)
			if c.kind != nil {
				if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v, want %q that says %q", err, c.kind, c.says)
				}
				return
			}
			if err != nil || len(l.Files) != 1 {
				t.Fatalf("%d files, %v", len(l.Files), err)
			}
			got, err := fetchertest.ReadFrom(t.Context(), d, fetcher.Object{Source: src, Revision: l.Revision, File: l.Files[0]}, 0)
			if err != nil || string(got) != "{}" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}
