package s3_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// startSecure runs versitygw with a certificate of this authority, over a bucket
// "models-1" that has the object llama/config.json.
func startSecure(t *testing.T, authority *fetchertest.Authority) (endpoint string) {
	t.Helper()
	certificate, key := authority.Files(t, time.Now().Add(time.Hour), "127.0.0.1")
	addr := fetchertest.StartServer(t, "STOKER_TEST_VERSITYGW", func(port int) []string {
		return []string{
			"--port", fmt.Sprintf("127.0.0.1:%d", port), "--access", accessKey, "--secret", secretKey, "--region", region, "--quiet",
			"--cert", certificate, "--key", key, "posix", t.TempDir(),
		}
	})
	noEnvironment(t)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	t.Setenv("AWS_REGION", region)
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(authority.PEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: known, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	s := &server{client: awss3.New(awss3.Options{
		BaseEndpoint: aws.String("https://" + addr), Region: region, UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})}
	s.mustPut(t, s.newBucket(t), "llama/config.json", []byte("{}"))
	return "https://" + addr
}

// A server of a private authority is believed where AWS's own settings, or the
// entry's, name that authority, and refused at once where they do not.
func TestPrivateAuthority(t *testing.T) {
	authority := fetchertest.NewAuthority(t, "Example Corp CA")
	endpoint := startSecure(t, authority)
	bundle, other := authority.Bundle(t), fetchertest.NewAuthority(t, "Other CA").Bundle(t)
	configured := func(bundle string) string {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte("[default]\nca_bundle = "+bundle+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mounted := filepath.Dir(configured(bundle))
	keys := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey)
	if err := os.WriteFile(filepath.Join(mounted, "credentials"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "none.pem")
	for name, c := range map[string]struct {
		environment map[string]string
		access      fetcher.Access
		kind        error
		says        string
	}{
		"nothing":              {nil, fetcher.Access{}, fetcher.ErrRefused, "signed by an unknown authority; name a file with that authority's certificate in AWS_CA_BUNDLE"},
		"AWS_CA_BUNDLE":        {map[string]string{"AWS_CA_BUNDLE": bundle}, fetcher.Access{}, nil, ""},
		"ca_bundle":            {map[string]string{"AWS_CONFIG_FILE": configured(bundle)}, fetcher.Access{}, nil, ""},
		"variable before file": {map[string]string{"AWS_CA_BUNDLE": bundle, "AWS_CONFIG_FILE": configured(other)}, fetcher.Access{}, nil, ""},
		"mounted Secret":       {map[string]string{"AWS_CA_BUNDLE": other}, fetcher.Access{CredentialsDir: mounted}, nil, ""},
		"caBundle":             {nil, fetcher.Access{CABundle: bundle}, nil, ""},
		"caBundle, beside":     {map[string]string{"AWS_CA_BUNDLE": other}, fetcher.Access{CABundle: bundle}, nil, ""},
		"for every source":     {map[string]string{httpsource.CABundleVariable: bundle}, fetcher.Access{}, nil, ""},
		"insecure":             {nil, fetcher.Access{Insecure: true}, nil, ""},
		"another authority":    {map[string]string{"AWS_CA_BUNDLE": other}, fetcher.Access{}, fetcher.ErrRefused, "add the authority's certificate to " + other},
		"no file":              {map[string]string{"AWS_CA_BUNDLE": missing}, fetcher.Access{}, fetcher.ErrMisconfigured, missing},
		"no file of its own":   {nil, fetcher.Access{CABundle: missing}, fetcher.ErrMisconfigured, missing},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			for variable, value := range c.environment {
				t.Setenv(variable, value)
			}
			c.access.Endpoint = endpoint
			d, err := s3.New(c.access, s3.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.CloseIdleConnections)
			src := fetcher.Source{Scheme: fetcher.SchemeS3, Path: "models-1/llama"}
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
