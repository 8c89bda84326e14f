package gcs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

// wantKind checks the kind of an error, that it says all of these, and that it
// shows no token.
func wantKind(t *testing.T, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error is %v, want one that is %q", err, kind)
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error does not say %q: %v", text, err)
		}
	}
	if shown := fmt.Sprintf("%v %+v", err, err); strings.Contains(shown, "SECRET") {
		t.Error("the error shows a secret")
	}
}

func TestKinds(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "llama", map[string][]byte{"config.json": []byte("{}")})
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	for _, c := range []struct {
		status int
		reason string
		kind   error
		hint   string
	}{
		{http.StatusUnauthorized, "required", fetcher.ErrRefused, "GOOGLE_APPLICATION_CREDENTIALS"},
		{http.StatusForbidden, "forbidden", fetcher.ErrRefused, "GOOGLE_APPLICATION_CREDENTIALS"},
		{http.StatusNotFound, "notFound", fetcher.ErrRefused, ""},
		{http.StatusPreconditionFailed, "conditionNotMet", fetcher.ErrRefused, "check"},
		{http.StatusTooManyRequests, "rateLimitExceeded", fetcher.ErrThrottled, "wait"},
		{http.StatusForbidden, "userRateLimitExceeded", fetcher.ErrThrottled, "wait"},
		{http.StatusNotImplemented, "notImplemented", fetcher.ErrRefused, "endpoint"},
		{http.StatusRequestTimeout, "uploadBrokenConnection", fetcher.ErrTransient, "later"},
		{http.StatusInternalServerError, "internalError", fetcher.ErrTransient, "later"},
		{http.StatusServiceUnavailable, "backendError", fetcher.ErrTransient, "later"},
		{http.StatusMovedPermanently, "", fetcher.ErrRefused, "endpoint"},
	} {
		t.Run(fmt.Sprint(c.status, c.reason), func(t *testing.T) {
			s.proxy.ResetLog()
			defer s.proxy.Inject(fetchertest.Fault{Effect: answer(c.status, c.reason, "3")})()
			_, err := d.Open(t.Context(), obj, 0, obj.File.Size)
			wantKind(t, err, c.kind, "config.json", c.hint)
			_, err = d.List(t.Context(), src)
			wantKind(t, err, c.kind, src.String(), c.hint)
			var e *fetcher.Error
			if errors.As(err, &e) && e.RetryAfter.Seconds() != 3 {
				t.Errorf("wait %s, the source said 3s", e.RetryAfter)
			}
			if n := len(s.proxy.Requests(fetchertest.Match{})); n != 2 {
				t.Errorf("two calls asked %d times", n)
			}
		})
	}
}

func TestReplaced(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "llama", map[string][]byte{"config.json": []byte("first")})
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	bucket, _, _ := strings.Cut(src.Path, "/")
	s.put(t, bucket, "llama/config.json", []byte("other"))
	_, err := d.Open(t.Context(), obj, 2, obj.File.Size-2)
	wantKind(t, err, fetcher.ErrRefused, "config.json", "replaced or removed")
	got, err := fetchertest.ReadFrom(t.Context(), d, fetchertest.ObjectOf(t, d, src, "config.json"), 2)
	if err != nil || string(got) != "her" {
		t.Errorf("listed again, it reads %q, %v", got, err)
	}
}

// Answers that are not what was asked for.
func TestOtherRanges(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("first")})
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		kind   error
	}{
		"a range ignored":     {http.StatusOK, nil, "first", fetcher.ErrTransient},
		"another range":       {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 1-4/5"}}, "irst", fetcher.ErrTransient},
		"another size":        {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 2-4/6"}}, "rst", fetcher.ErrTransient},
		"a short range":       {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 2-4/5"}}, "r", fetcher.ErrTransient},
		"a range of no bytes": {http.StatusPartialContent, http.Header{"Content-Range": {"lines 2-4"}}, "rst", fetcher.ErrTransient},
	} {
		t.Run(name, func(t *testing.T) {
			defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(c.status, c.header, c.body)})()
			_, err := fetchertest.ReadFrom(t.Context(), d, obj, 2)
			wantKind(t, err, c.kind, "config.json")
		})
	}
	for _, c := range []struct {
		status        int
		contentRange  string
		body          string
		offset, bytes int64
	}{
		{http.StatusOK, "", "first", 0, 3},
		{http.StatusPartialContent, "bytes 0-4/5", "first", 0, 3},
		{http.StatusPartialContent, "bytes 1-4/5", "irst", 1, 2},
		{http.StatusPartialContent, "bytes 1-4/5", "ir", 1, 2},
		{http.StatusPartialContent, "bytes 1-1/5", "i", 1, 2},
	} {
		remove := s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(c.status, http.Header{"Content-Range": {c.contentRange}}, c.body)})
		_, err := d.Open(t.Context(), obj, c.offset, c.bytes)
		remove()
		wantKind(t, err, fetcher.ErrTransient, "config.json")
	}
	// Stored compressed, it would come as other bytes than it was listed with.
	defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusOK, http.Header{"X-Goog-Stored-Content-Encoding": {"gzip"}}, "first")})()
	_, err := fetchertest.ReadFrom(t.Context(), d, obj, 0)
	wantKind(t, err, fetcher.ErrRefused, "gzip")
}

// What reaches the end of a file is asked for without naming it.
func TestAskedRanges(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("first")})
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	for _, c := range []struct {
		offset, length int64
		want           string
	}{
		{0, 5, ""}, {2, 3, "bytes=2-"}, {0, 3, "bytes=0-2"}, {2, 1, "bytes=2-2"},
	} {
		s.proxy.ResetLog()
		if _, err := fetchertest.ReadRange(t.Context(), d, obj, c.offset, c.length); err != nil {
			t.Error(err)
		}
		if requests := s.proxy.Requests(fetchertest.Match{}); len(requests) != 1 || requests[0].Range != c.want {
			t.Errorf("%d bytes from %d: asked %+v, want the range %q", c.length, c.offset, requests, c.want)
		}
	}
}

func TestHostileLists(t *testing.T) {
	s := startServer(t)
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	const object = `{"items": [{"name": %q, "size": "5", "generation": "1", "crc32c": "AAAAAQ=="}]}`
	for name, c := range map[string]struct {
		body string
		kind error
		says string
	}{
		"outside the prefix": {fmt.Sprintf(object, "other/config.json"), fetcher.ErrCorrupt, "other/config.json"},
		"beside the prefix":  {fmt.Sprintf(object, "llama-2/config.json"), fetcher.ErrCorrupt, "llama-2"},
		"empty":              {`{}`, fetcher.ErrRefused, "no object"},
		"no JSON":            {`<`, fetcher.ErrTransient, ""},
	} {
		t.Run(name, func(t *testing.T) {
			defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusOK, http.Header{"Content-Type": {"application/json"}}, c.body)})()
			l, err := d.List(t.Context(), source("bucket", "llama"))
			wantKind(t, err, c.kind, c.says)
			if len(l.Files) > 0 {
				t.Error("files beside an error")
			}
		})
	}
}

// What stands in where an emulator states no CRC32C, and when nothing does.
func TestVouchedInTheList(t *testing.T) {
	s := startServer(t)
	d := newDriver(t, fetcher.Access{}, gcs.Options{})
	for fields, want := range map[string]fetcher.Digest{
		`"size": "9", "crc32c": "4waSgw==", "md5Hash": "JfnnlDI7RTiF9RgfG2JNCw=="`: "crc32c:e3069283",
		`"size": "9", "md5Hash": "JfnnlDI7RTiF9RgfG2JNCw=="`:                       "md5:25f9e794323b453885f5181f1b624d0b",
		`"size": "9"`: "",
		`"size": "0"`: "crc32c:00000000",
	} {
		remove := s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusOK, http.Header{"Content-Type": {"application/json"}},
			`{"items": [{"name": "config.json", "generation": "1", `+fields+`}]}`)})
		l, err := d.List(t.Context(), source("bucket", ""))
		remove()
		if err != nil || len(l.Files) != 1 || l.Files[0].Digest != want {
			t.Errorf("%s: listed %+v, %v; want the digest %q", fields, l.Files, err, want)
		}
	}
}

// tokens is Google's token service, as a service account's key names it.
type tokens struct {
	*httptest.Server
	key   []byte // key.json
	token string
	fail  int
}

func startTokens(t *testing.T) *tokens {
	t.Helper()
	ts := &tokens{token: "ya29.SECRET"}
	ts.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if ts.fail != 0 {
			w.WriteHeader(ts.fail)
			_, _ = w.Write([]byte(`{"error": "invalid_grant", "error_description": "SECRET"}`))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": ts.token, "token_type": "Bearer", "expires_in": 3600})
	}))
	t.Cleanup(ts.Close)
	ts.key = serviceAccount(t, ts.URL)
	return ts
}

// serviceAccount makes the key.json of one whose tokens come from tokenURL.
func serviceAccount(t *testing.T, tokenURL string) []byte {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "stoker@test.invalid", "private_key_id": "1", "token_uri": tokenURL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestCredentials(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("{}")})
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GCE_METADATA_HOST", "127.0.0.1:1") // there is none, and no look-up of it
	ts := startTokens(t)
	dir := t.TempDir()
	write := func(key []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "key.json"), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := func(d *gcs.Driver) error {
		_, err := d.List(t.Context(), src)
		return err
	}

	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL(), CredentialsDir: dir}, gcs.Options{})
	wantKind(t, list(d), fetcher.ErrMisconfigured, "key.json")
	write([]byte(`{"type": "SECRET`))
	wantKind(t, list(d), fetcher.ErrMisconfigured, "key.json")
	write(ts.key) // a rotated Secret takes effect
	if err := list(d); err != nil {
		t.Fatal(err)
	}
	if requests := s.proxy.Requests(fetchertest.Match{}); len(requests) == 0 || !requests[len(requests)-1].Authorized {
		t.Error("no token was sent")
	}

	ts.fail = http.StatusBadRequest
	fresh := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL(), CredentialsDir: dir}, gcs.Options{})
	wantKind(t, list(fresh), fetcher.ErrRefused, "get a token", "replace them")

	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(dir, "key.json"))
	ts.fail = 0
	s.proxy.ResetLog()
	if err := list(newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, gcs.Options{})); err != nil {
		t.Error(err)
	}
	if requests := s.proxy.Requests(fetchertest.Match{}); len(requests) != 1 || !requests[0].Authorized {
		t.Errorf("with default credentials: %+v", requests)
	}
	// An emulator takes none.
	t.Setenv("STORAGE_EMULATOR_HOST", s.proxy.URL())
	s.proxy.ResetLog()
	if err := list(newDriver(t, fetcher.Access{}, gcs.Options{})); err != nil {
		t.Error(err)
	}
	if requests := s.proxy.Requests(fetchertest.Match{}); len(requests) != 1 || requests[0].Authorized {
		t.Errorf("to an emulator: %+v", requests)
	}
}

// A redirect leads nowhere: the token is meant for one host.
func TestNoRedirects(t *testing.T) {
	s := startServer(t)
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	ts := startTokens(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key.json"), ts.key, 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := fetchertest.StartProxy(t, s.proxy.URL())
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL(), CredentialsDir: dir}, gcs.Options{})
	s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusTemporaryRedirect, http.Header{"Location": {elsewhere.URL() + "/storage/v1/b"}}, "")})
	_, err := d.List(t.Context(), source("bucket", ""))
	wantKind(t, err, fetcher.ErrRefused, "307")
	if n := len(elsewhere.Requests(fetchertest.Match{})); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

func TestUnreachable(t *testing.T) {
	noEnvironment(t)
	t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
	_, err := newDriver(t, fetcher.Access{}, gcs.Options{}).List(t.Context(), source("bucket", ""))
	wantKind(t, err, fetcher.ErrTransient, "127.0.0.1:1", "reaches")
	_, err = gcs.New(fetcher.Access{Endpoint: "https://user:" + "hunter22@example.test"}, gcs.Options{})
	if err == nil || strings.Contains(err.Error(), "hunter22") {
		t.Errorf("error is %v", err)
	}
}
