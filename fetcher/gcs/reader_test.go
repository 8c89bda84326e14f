package gcs_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

// A bucket whose readers pay, as no emulator has it: to those who name no project it
// answers in Google's words. Google's own client reads it by the same parameter.
func TestReadersPayAsGooglesClientDoes(t *testing.T) {
	python := os.Getenv("STOKER_TEST_PYTHON")
	if python == "" {
		t.Skip("SKIPPED: STOKER_TEST_PYTHON names no Python with google-cloud-storage; make test makes a virtual environment and sets it")
	}
	s := startServer(t)
	files := map[string][]byte{"config.json": []byte("{}"), "sub/a b.json": []byte("[]")}
	src := s.fill(t, "", files)
	to, err := url.Parse(s.proxy.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	forward := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("userProject") != "ours" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error": {"code": 400, "message": "Bucket is a requester pays bucket but no user project provided.", "errors": [{"domain": "global", "reason": "required", "message": "Bucket is a requester pays bucket but no user project provided."}]}}`)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)

	want := map[string]string{}
	for path, content := range files {
		sum := sha256.Sum256(content)
		want[path] = hex.EncodeToString(sum[:])
	}
	for _, payer := range []string{"", "ours"} {
		args := append([]string{filepath.Join("testdata", "read_bucket.py"), server.URL, src.Path}, strings.Fields(payer)...)
		cmd := exec.CommandContext(t.Context(), python, args...)
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE=1"}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var theirs struct {
			Objects map[string]string `json:"objects"`
			Error   string            `json:"error"`
		}
		if err := json.Unmarshal(out, &theirs); err != nil {
			t.Fatalf("it printed %q: %v", out, err)
		}

		t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
		t.Setenv("GOOGLE_CLOUD_QUOTA_PROJECT", payer)
		d := newDriver(t, fetcher.Access{RequesterPays: payer != ""}, gcs.Options{})
		l, err := d.List(t.Context(), src)
		if payer == "" {
			wantKind(t, err, fetcher.ErrRefused, "access.requesterPays")
			if !strings.Contains(theirs.Error, "requester pays") {
				t.Errorf("Google's client reads %+v", theirs)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		ours := map[string]string{}
		for _, f := range l.Files {
			content, err := fetchertest.ReadFrom(t.Context(), d, fetcher.Object{Source: src, Revision: l.Revision, File: f}, 0)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(content)
			ours[f.Path] = hex.EncodeToString(sum[:])
		}
		if !maps.Equal(ours, want) || !maps.Equal(theirs.Objects, want) {
			t.Errorf("this driver reads %v, Google's client %+v; want %v", ours, theirs, want)
		}
	}
}
