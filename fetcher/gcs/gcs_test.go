package gcs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/storage"
	"go.uber.org/goleak"
	"google.golang.org/api/option"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is fake-gcs-server, which speaks the JSON API, and a proxy before it.
type server struct {
	proxy   *fetchertest.Proxy
	client  *storage.Client
	buckets atomic.Int32
}

// startServer runs fake-gcs-server. The environment that drivers read names it.
func startServer(t *testing.T) *server {
	t.Helper()
	addr := fetchertest.StartServer(t, "STOKER_TEST_FAKE_GCS", func(port int) []string {
		return []string{"-scheme", "http", "-host", "127.0.0.1", "-port", fmt.Sprint(port), "-backend", "memory", "-log-level", "error"}
	})
	noEnvironment(t)
	s := &server{proxy: fetchertest.StartProxy(t, "http://"+addr)}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	var err error
	s.client, err = storage.NewClient(context.WithoutCancel(t.Context()), option.WithHTTPClient(&http.Client{Transport: transport}),
		option.WithoutAuthentication(), option.WithEndpoint("http://"+addr+"/storage/v1/"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.client.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(s.proxy.URL(), "http://"))
	return s
}

// noEnvironment hides this machine's own credentials.
func noEnvironment(t *testing.T) {
	t.Helper()
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("CLOUDSDK_CONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
}

func (s *server) newBucket(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("models-%d", s.buckets.Add(1))
	if err := s.client.Bucket(name).Create(t.Context(), "stoker-test", nil); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *server) put(t *testing.T, bucket, name string, content []byte) {
	t.Helper()
	w := s.client.Bucket(bucket).Object(name).NewWriter(t.Context())
	w.ChunkSize = 0 // in one piece
	_, err := w.Write(content)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

// fill makes a bucket with these files below a prefix, a marker for the folder
// itself, and a file whose name begins like theirs and is not one of them.
func (s *server) fill(t *testing.T, prefix string, files map[string][]byte) fetcher.Source {
	t.Helper()
	bucket := s.newBucket(t)
	if prefix != "" {
		s.put(t, bucket, prefix+"/", nil)
		s.put(t, bucket, prefix+"-2/config.json", []byte("another model's"))
	}
	for path, content := range files {
		s.put(t, bucket, keyOf(prefix, path), content)
	}
	return source(bucket, prefix)
}

func source(bucket, prefix string) fetcher.Source {
	return fetcher.Source{Scheme: fetcher.SchemeGCS, Path: keyOf(bucket, prefix)}
}

// keyOf joins two parts of which either may be empty.
func keyOf(prefix, path string) string {
	if prefix == "" || path == "" {
		return prefix + path
	}
	return prefix + "/" + path
}

func newDriver(t *testing.T, access fetcher.Access, o gcs.Options) *gcs.Driver {
	t.Helper()
	d, err := gcs.New(access, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	return d
}

func TestDriver(t *testing.T) {
	s := startServer(t)
	for name, c := range map[string]struct {
		prefix  string
		options gcs.Options
	}{
		"a whole bucket": {},
		"a prefix":       {prefix: "team/llama"},
		"small pages":    {prefix: "llama", options: gcs.Options{PageSize: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			fetchertest.TestDriver(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
				t.Helper()
				src := s.fill(t, c.prefix, files)
				return s.fixture(newDriver(t, fetcher.Access{}, c.options), src, c.prefix)
			})
		})
	}
}

func (s *server) fixture(d *gcs.Driver, src fetcher.Source, prefix string) fetchertest.Fixture {
	bucket, _, _ := strings.Cut(src.Path, "/")
	f := fetchertest.Fixture{
		Driver:   d,
		Source:   src,
		Missing:  []fetcher.Source{source("no-such-bucket", ""), source("no-such-bucket", "llama"), source(bucket, "no-such-folder"), source(bucket, "config")},
		Digests:  true,
		Connects: true,
		Change: func(t *testing.T, path string, content []byte) {
			t.Helper()
			s.put(t, bucket, keyOf(prefix, path), content)
		},
	}
	match := func(path string) fetchertest.Match {
		return fetchertest.Match{Method: http.MethodGet, File: "*/" + path}
	}
	f.BreakBy(s.proxy.Inject, match, map[error]fetchertest.Effect{
		fetcher.ErrTransient: answer(http.StatusServiceUnavailable, "backendError", ""),
		fetcher.ErrRefused:   answer(http.StatusForbidden, "forbidden", ""),
		fetcher.ErrThrottled: answer(http.StatusTooManyRequests, "rateLimitExceeded", "2"),
	})
	return f
}

// answer is the JSON API's own way of saying no.
func answer(status int, reason, retryAfter string) fetchertest.Effect {
	header := http.Header{"Content-Type": {"application/json"}}
	if retryAfter != "" {
		header.Set("Retry-After", retryAfter)
	}
	return fetchertest.Answer(status, header, fmt.Sprintf(`{"error": {"code": %d, "message": "As it is.", "errors": [{"reason": %q, "message": "As it is."}]}}`, status, reason))
}
