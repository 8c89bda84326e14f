package s3_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// wantKind checks the kind of an error, that it says all of these, and that it
// shows no secret.
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
	if shown := fmt.Sprintf("%v %+v", err, err); strings.Contains(shown, secretKey) || strings.Contains(shown, "Signature=") {
		t.Error("the error shows a secret")
	}
}

// Every answer S3 has a code for that decides what to do.
func TestKinds(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "llama", map[string][]byte{"config.json": []byte("{}")})
	for _, c := range []struct {
		status int
		code   string
		kind   error
		hint   string
	}{
		{http.StatusForbidden, "AccessDenied", fetcher.ErrRefused, "s3:GetObject"},
		{http.StatusForbidden, "InvalidAccessKeyId", fetcher.ErrRefused, "replace the credentials"},
		{http.StatusForbidden, "SignatureDoesNotMatch", fetcher.ErrRefused, "replace the credentials"},
		{http.StatusForbidden, "RequestTimeTooSkewed", fetcher.ErrRefused, "clock"},
		{http.StatusForbidden, "InvalidObjectState", fetcher.ErrRefused, "restore it"},
		{http.StatusBadRequest, "ExpiredToken", fetcher.ErrRefused, "session token"},
		{http.StatusBadRequest, "RequestTimeout", fetcher.ErrTransient, "later"},
		{http.StatusBadRequest, "AuthorizationHeaderMalformed", fetcher.ErrRefused, "AWS_REGION"},
		{http.StatusMovedPermanently, "PermanentRedirect", fetcher.ErrRefused, "AWS_REGION"},
		{http.StatusTemporaryRedirect, "TemporaryRedirect", fetcher.ErrTransient, "later"},
		{http.StatusNotFound, "NoSuchBucket", fetcher.ErrRefused, "spelling"},
		{http.StatusNotFound, "NoSuchKey", fetcher.ErrRefused, "removed"},
		{http.StatusPreconditionFailed, "PreconditionFailed", fetcher.ErrRefused, "pull again"},
		{http.StatusRequestedRangeNotSatisfiable, "InvalidRange", fetcher.ErrRefused, "pull again"},
		{http.StatusServiceUnavailable, "SlowDown", fetcher.ErrThrottled, "wait"},
		{http.StatusTooManyRequests, "", fetcher.ErrThrottled, "wait"},
		{http.StatusInternalServerError, "InternalError", fetcher.ErrTransient, "later"},
		{http.StatusBadGateway, "", fetcher.ErrTransient, "later"},
		{http.StatusNotImplemented, "NotImplemented", fetcher.ErrRefused, "S3 server"},
		{http.StatusMethodNotAllowed, "MethodNotAllowed", fetcher.ErrRefused, "endpoint"},
		{http.StatusBadRequest, "InvalidRequest", fetcher.ErrRefused, "customer's own key"},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{}) // it remembers what a server does not know
			obj := fetchertest.ObjectOf(t, d, src, "config.json")
			s.proxy.ResetLog()
			defer s.proxy.Inject(fetchertest.Fault{Effect: answer(c.status, c.code, "")})()
			_, err := d.Open(t.Context(), obj, 0, obj.File.Size)
			wantKind(t, err, c.kind, "config.json", c.hint)
			// A HEAD has no body to put a code in.
			_, err = d.Vouch(t.Context(), obj)
			switch c.status {
			case http.StatusBadRequest:
				wantKind(t, err, fetcher.ErrRefused, "config.json", "credentials")
			case http.StatusMethodNotAllowed, http.StatusNotImplemented: // it states nothing
				if err != nil {
					t.Error(err)
				}
			default:
				wantKind(t, err, c.kind, "config.json")
			}
			_, err = d.List(t.Context(), src)
			wantKind(t, err, c.kind, src.String(), c.hint)
			want := 3
			switch { // what may be of the question is asked otherwise, once
			case c.status == http.StatusPreconditionFailed:
				want = 5 // without If-Match
			case c.status == http.StatusNotImplemented, c.code == "InvalidRequest":
				want = 9 // without If-Match, without checksums, without both, and by the other ways to list
			case c.status == http.StatusBadRequest:
				want = 6 // a HEAD has no code
			case c.status == http.StatusMethodNotAllowed:
				want = 5 // by the other ways to list
			}
			if n := len(s.proxy.Requests(fetchertest.Match{})); n != want {
				t.Errorf("three calls asked %d times, want %d", n, want)
			}
		})
	}
}

func TestRegionHint(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("{}")})
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusMovedPermanently,
		http.Header{"X-Amz-Bucket-Region": {"eu-west-1"}, "Location": {"http://127.0.0.1:1/elsewhere"}}, "")})
	_, err := d.List(t.Context(), src)
	wantKind(t, err, fetcher.ErrRefused, "AWS_REGION=eu-west-1")
}

func TestReplaced(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "llama", map[string][]byte{"config.json": []byte("first")})
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	bucket, _, _ := strings.Cut(src.Path, "/")
	s.mustPut(t, bucket, "llama/config.json", []byte("other"))
	_, err := d.Open(t.Context(), obj, 2, obj.File.Size-2)
	wantKind(t, err, fetcher.ErrRefused, "config.json", "replaced since it was listed")
	got, err := fetchertest.ReadFrom(t.Context(), d, fetchertest.ObjectOf(t, d, src, "config.json"), 2)
	if err != nil || string(got) != "her" {
		t.Errorf("listed again, it reads %q, %v", got, err)
	}
}

// A server that knows no If-Match gives itself away.
func TestAnotherETag(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("first")})
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	obj := fetchertest.ObjectOf(t, d, src, "config.json")
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		kind   error
	}{
		"other content":    {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 0-4/5"}, "Etag": {`"other"`}}, "other", fetcher.ErrRefused},
		"a range ignored":  {http.StatusOK, http.Header{"Etag": {obj.File.Version}}, "first", fetcher.ErrTransient},
		"another range":    {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 1-4/5"}, "Etag": {obj.File.Version}}, "irst", fetcher.ErrTransient},
		"another size":     {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 2-4/6"}, "Etag": {obj.File.Version}}, "rst", fetcher.ErrTransient},
		"a length that no": {http.StatusPartialContent, http.Header{"Content-Range": {"bytes 2-4/5"}, "Etag": {obj.File.Version}}, "r", fetcher.ErrTransient},
	} {
		t.Run(name, func(t *testing.T) {
			defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(c.status, c.header, c.body)})()
			offset := int64(2)
			if errors.Is(c.kind, fetcher.ErrRefused) {
				offset = 0
			}
			_, err := fetchertest.ReadFrom(t.Context(), d, obj, offset)
			wantKind(t, err, c.kind, "config.json")
		})
	}
	// The front of a file, too.
	for _, c := range []struct {
		status        int
		contentRange  string
		body          string
		offset, bytes int64
	}{
		{http.StatusOK, "", "first", 0, 3},
		{http.StatusPartialContent, "bytes 0-4/5", "first", 0, 3},
		{http.StatusPartialContent, "bytes 1-4/5", "irst", 1, 2},
		{http.StatusPartialContent, "bytes 1-1/5", "i", 1, 2},
	} {
		remove := s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(c.status, http.Header{"Content-Range": {c.contentRange}, "Etag": {obj.File.Version}}, c.body)})
		_, err := d.Open(t.Context(), obj, c.offset, c.bytes)
		remove()
		wantKind(t, err, fetcher.ErrTransient, "config.json")
	}
}

// A server that does not say how long its answer is.
func TestUnknownLength(t *testing.T) {
	noEnvironment(t)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 2-5/9")
		w.Header().Set("Etag", `"e"`)
		w.WriteHeader(http.StatusPartialContent)
		for _, part := range []string{"ab", "cd"} {
			_, _ = io.WriteString(w, part) // a client that left hears nothing
			_ = http.NewResponseController(w).Flush()
		}
	}))
	t.Cleanup(server.Close)
	d := newDriver(t, fetcher.Access{Endpoint: server.URL}, s3.Options{})
	obj := fetcher.Object{Source: source("bucket", "llama"), File: fetcher.File{Path: "config.json", Size: 9, Version: `"e"`}}
	got, err := fetchertest.ReadRange(t.Context(), d, obj, 2, 4)
	if err != nil || string(got) != "abcd" {
		t.Errorf("read %q, %v", got, err)
	}
}

// An object that cannot be read for what is listed of it matters only to whoever wants it.
func TestUnusableObjects(t *testing.T) {
	s := startServer(t)
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	for name, c := range map[string]struct {
		listed string
		kind   error
		says   string
	}{
		"no ETag, no time": {``, fetcher.ErrRefused, "notes.txt has neither ETag nor time"},
		"an ETag of lines": {`<ETag>a&#10;b</ETag>`, fetcher.ErrCorrupt, "notes.txt has an ETag with control characters"},
	} {
		t.Run(name, func(t *testing.T) {
			body := `<ListBucketResult><Contents><Key>llama/config.json</Key><Size>5</Size><ETag>"e"</ETag></Contents>` +
				`<Contents><Key>llama/notes.txt</Key><Size>5</Size>` + c.listed + `</Contents></ListBucketResult>`
			defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusOK, http.Header{"Content-Type": {"application/xml"}}, body)})()
			l, err := d.List(t.Context(), source("bucket", "llama"))
			if err != nil || len(l.Files) != 2 || l.Files[0].Unusable != nil {
				t.Fatalf("listed %+v, %v", l.Files, err)
			}
			wantKind(t, l.Files[1].Unusable, c.kind, c.says)
			p := &puller{dir: t.TempDir(), driver: d, src: source("bucket", "llama"), jobs: 1}
			_, err = p.pull(t.Context(), t, nil)
			wantKind(t, err, c.kind, c.says)
		})
	}
}

// Lists that no server may give.
func TestHostileLists(t *testing.T) {
	s := startServer(t)
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	const object = `<Contents><Key>%s</Key><Size>5</Size><ETag>"e"</ETag></Contents>`
	for name, c := range map[string]struct {
		inner string
		kind  error
		says  string
	}{
		"outside the prefix":  {fmt.Sprintf(object, "other/config.json"), fetcher.ErrCorrupt, "other/config.json"},
		"beside the prefix":   {fmt.Sprintf(object, "llama-2/config.json"), fetcher.ErrCorrupt, "llama-2"},
		"not encoded":         {`<EncodingType>url</EncodingType>` + fmt.Sprintf(object, "llama/100%zz"), fetcher.ErrCorrupt, "encoded"},
		"more, but not where": {`<IsTruncated>true</IsTruncated>` + fmt.Sprintf(object, "llama/a"), fetcher.ErrCorrupt, "twice"},
		"more, of nothing":    {`<IsTruncated>true</IsTruncated>`, fetcher.ErrTransient, "where the rest begins"},
		"for ever":            {`<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>` + fmt.Sprintf(object, "llama/a"), fetcher.ErrCorrupt, "twice"},
		"empty":               {``, fetcher.ErrRefused, "no object"},
		"no XML":              {`<`, fetcher.ErrTransient, ""},
	} {
		t.Run(name, func(t *testing.T) {
			body := `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>` + c.inner + `</ListBucketResult>`
			defer s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusOK, http.Header{"Content-Type": {"application/xml"}}, body)})()
			l, err := d.List(t.Context(), source("bucket", "llama"))
			wantKind(t, err, c.kind, c.says)
			if len(l.Files) > 0 {
				t.Error("files beside an error")
			}
		})
	}
}

// Amazon encodes keys when asked to, because XML has no way to write some
// characters; what refuses such names can then say which it was.
func TestEncodedKeys(t *testing.T) {
	s := startServer(t)
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	const object = `<Contents><Key>%s</Key><Size>5</Size><ETag>"e"</ETag></Contents>`
	body := `<ListBucketResult><EncodingType>url</EncodingType>` + fmt.Sprintf(object, "llama/bell%07.bin") + fmt.Sprintf(object, "llama/a%2Bb+c%252f.bin") + `</ListBucketResult>`
	s.proxy.Inject(fetchertest.Fault{Effect: fetchertest.Answer(http.StatusOK, http.Header{"Content-Type": {"application/xml"}}, body)})
	l, err := d.List(t.Context(), source("bucket", "llama"))
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Files) != 2 || l.Files[0].Path != "bell\x07.bin" || l.Files[1].Path != "a+b c%2f.bin" {
		t.Errorf("listed %+v", l.Files)
	}
}

func TestCredentials(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("{}")})
	list := func(d *s3.Driver) error {
		_, err := d.List(t.Context(), src)
		return err
	}
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := "[default]\naws_access_key_id = " + accessKey + "\naws_secret_access_key = " + secretKey + "\n"
	bad := "[default]\naws_access_key_id = " + accessKey + "\naws_secret_access_key = " + secretKey + "x\n"

	t.Run("of the environment", func(t *testing.T) {
		t.Setenv("AWS_ENDPOINT_URL_S3", s.proxy.URL())
		if err := list(newDriver(t, fetcher.Access{}, s3.Options{})); err != nil {
			t.Error(err)
		}
		t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey+"x")
		wantKind(t, list(newDriver(t, fetcher.Access{}, s3.Options{})), fetcher.ErrRefused, "replace the credentials")
	})
	t.Run("none", func(t *testing.T) {
		noEnvironment(t)
		wantKind(t, list(newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})), fetcher.ErrRefused, "no AWS credentials", "AWS_ACCESS_KEY_ID")
	})
	t.Run("of a folder, before the environment's", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "AKIAOTHERS")
		t.Setenv("AWS_REGION", "us-other-1")
		dir := t.TempDir()
		write(dir, "credentials", good)
		write(dir, "config", "[default]\nregion = "+region+"\nendpoint_url = "+s.proxy.URL()+"\n")
		d := newDriver(t, fetcher.Access{CredentialsDir: dir}, s3.Options{})
		if err := list(d); err != nil {
			t.Fatal(err)
		}
		write(dir, "credentials", bad) // a rotated Secret takes effect
		wantKind(t, list(d), fetcher.ErrRefused, "replace the credentials")
		write(dir, "credentials", good)
		if err := list(d); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(filepath.Join(dir, "config")), os.Remove(filepath.Join(dir, "credentials"))); err != nil {
			t.Fatal(err)
		}
		wantKind(t, list(d), fetcher.ErrMisconfigured, "config and credentials")
	})
	t.Run("a folder of damaged files", func(t *testing.T) {
		dir := t.TempDir()
		write(dir, "credentials", "aws_access_key_id = "+accessKey+"\n["+secretKey)
		wantKind(t, list(newDriver(t, fetcher.Access{Endpoint: s.proxy.URL(), CredentialsDir: dir}, s3.Options{})), fetcher.ErrMisconfigured)
	})
	t.Run("an endpoint with a password", func(t *testing.T) {
		_, err := s3.New(fetcher.Access{Endpoint: "https://user:" + "hunter22@example.test"}, s3.Options{})
		if err == nil || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("error is %v", err)
		}
	})
}

// Nothing listens: the hint is the network's.
func TestUnreachable(t *testing.T) {
	s := startServer(t)
	src := s.fill(t, "", map[string][]byte{"config.json": []byte("{}")})
	d := newDriver(t, fetcher.Access{Endpoint: "http://127.0.0.1:1"}, s3.Options{})
	_, err := d.List(t.Context(), src)
	wantKind(t, err, fetcher.ErrTransient, "127.0.0.1:1", "reaches")
}
