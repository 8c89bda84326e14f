package gcs_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

// Answers in Google's words come as JSON or, to whoever reads an object, as plain text.
func TestRefusalsInGooglesWords(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "llama", map[string][]byte{"config.json": []byte("{}")})
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	for name, c := range map[string]struct {
		status                int
		reason, message, hint string
	}{
		"requester pays": {
			http.StatusBadRequest, "required", "Bucket is a requester pays bucket but no user project provided.", "access.requesterPays: true (--requester-pays)",
		},
		"no such payer": {
			http.StatusForbidden, "forbidden", "reader@example.test does not have serviceusage.services.use access to the Google Cloud project.", "roles/serviceusage.serviceUsageConsumer",
		},
		"the customer's key": {
			http.StatusBadRequest, "resourceIsEncryptedWithCustomerEncryptionKey", "The target object is encrypted by a customer-supplied encryption key.", "a key that only its owner has",
		},
	} {
		for form, body := range map[string]string{
			"json":  fmt.Sprintf(`{"error": {"code": %d, "message": %q, "errors": [{"reason": %q, "message": %q}]}}`, c.status, c.message, c.reason, c.message),
			"plain": c.message,
		} {
			t.Run(name+" "+form, func(t *testing.T) {
				defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(c.status, http.Header{"Content-Type": {"application/json"}}, body)})()
				_, openErr := d.Open(t.Context(), obj, 0, obj.File.Size)
				_, listErr := d.List(t.Context(), src)
				for _, err := range []error{openErr, listErr} {
					wantKind(t, err, fetcher.ErrRefused, c.hint)
					if strings.ContainsAny(err.Error(), "{}") {
						t.Errorf("the error repeats JSON: %v", err)
					}
				}
			})
		}
	}
}

// google answers like the service, and keeps what it was asked.
type google struct{ asked []*http.Request }

// RoundTrip implements http.RoundTripper.
func (g *google) RoundTrip(r *http.Request) (*http.Response, error) {
	g.asked = append(g.asked, r)
	body, status, header := `{"items": [{"name": "config.json", "size": "2", "generation": "1"}]}`, http.StatusOK, http.Header{"Content-Type": {"application/json"}}
	switch {
	case strings.HasPrefix(r.URL.Host, "oauth2."):
		body = `{"access_token": "ya29.SECRETtoken", "token_type": "Bearer", "expires_in": 3600}`
	case r.URL.Query().Get("alt") == "media":
		body, status = "{}", http.StatusPartialContent
		header = http.Header{"Content-Range": {"bytes 0-1/2"}, "Content-Length": {"2"}, "X-Goog-Generation": {"1"}}
	}
	return &http.Response{StatusCode: status, Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func TestRequesterPays(t *testing.T) {
	plain := string(serviceAccount(t, "https://oauth2.example.test/token"))
	for name, c := range map[string]struct {
		environment map[string]string
		key         string // further fields of key.json
		access      fetcher.Access
		want        string // the project that pays; empty: none
		says        string // of the refusal
	}{
		"nobody asks":               {key: `"project_id": "ours"`},
		"the project of the key":    {key: `"project_id": "ours"`, access: fetcher.Access{RequesterPays: true}, want: "ours"},
		"its quota project":         {key: `"project_id": "ours", "quota_project_id": "quota"`, access: fetcher.Access{RequesterPays: true}, want: "quota"},
		"of the variable":           {environment: map[string]string{"GOOGLE_CLOUD_QUOTA_PROJECT": "named"}, key: `"quota_project_id": "quota"`, access: fetcher.Access{RequesterPays: true}, want: "named"},
		"of the project's variable": {environment: map[string]string{"GOOGLE_CLOUD_PROJECT": "named"}, key: `"type": "service_account"`, access: fetcher.Access{RequesterPays: true}, want: "named"},
		"none":                      {key: `"type": "service_account"`, access: fetcher.Access{RequesterPays: true}, says: "GOOGLE_CLOUD_QUOTA_PROJECT"},
	} {
		t.Run(name, func(t *testing.T) {
			noEnvironment(t)
			t.Setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "")
			t.Setenv("GOOGLE_CLOUD_PROJECT", "")
			for k, v := range c.environment {
				t.Setenv(k, v)
			}
			c.access.CredentialsDir = t.TempDir()
			key := strings.TrimSuffix(plain, "}") + ", " + c.key + "}"
			if err := os.WriteFile(filepath.Join(c.access.CredentialsDir, "key.json"), []byte(key), 0o600); err != nil {
				t.Fatal(err)
			}
			g := &google{}
			d := newDriver(t, c.access, gcs.Options{Transport: g})
			l, err := d.List(t.Context(), source("bucket", ""))
			if c.says != "" {
				wantKind(t, err, fetcher.ErrMisconfigured, c.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fetchertest.ReadFrom(t.Context(), d, fetcher.Object{Source: source("bucket", ""), File: l.Files[0]}, 0); err != nil {
				t.Fatal(err)
			}
			for _, r := range g.asked {
				if r.URL.Host == "storage.googleapis.com" && r.URL.Query().Get("userProject") != c.want {
					t.Errorf("%s names the payer %q, want %q", r.URL, r.URL.Query().Get("userProject"), c.want)
				}
			}
		})
	}
}

// A public bucket is asked without the credentials that there are.
func TestUnsigned(t *testing.T) {
	noEnvironment(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key.json"), serviceAccount(t, "https://oauth2.example.test/token"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(dir, "key.json"))
	g := &google{}
	if _, err := newDriver(t, fetcher.Access{Unsigned: true}, gcs.Options{Transport: g}).List(t.Context(), source("bucket", "")); err != nil {
		t.Fatal(err)
	}
	if len(g.asked) != 1 || g.asked[0].Header.Get("Authorization") != "" {
		t.Errorf("%d requests, the first with %q", len(g.asked), g.asked[0].Header.Get("Authorization"))
	}
}
