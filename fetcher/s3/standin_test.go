package s3_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// traits are what servers other than Amazon's, and what stands before one, do
// otherwise. The zero traits are a textbook server, which checks signatures.
type traits struct {
	// etag writes a value as the server's ETags are written; nil: in quotes.
	etag func(string) string
	// noETags: neither lists nor answers have them.
	noETags bool
	// bareIfMatch: If-Match is compared with the value, without quotes.
	bareIfMatch bool
	// unknown are the questions (list-type, encoding-type, x-amz-checksum-mode, If-Match)
	// that are answered with status (501 if 0).
	unknown []string
	status  int
	// noHead is the status of every HEAD; 0: it is answered.
	noHead int
	// headWithoutETag: the answer to a HEAD has none, its lists do.
	headWithoutETag bool
	// ignoresListType: whatever is asked, it answers as ListObjects.
	ignoresListType bool
	// onlyVirtual is the code of the refusal of what is asked by path; "": both
	// styles are answered.
	onlyVirtual string
	// rewrites: what stands before it changes headers that are none of S3's.
	rewrites bool
	// public: it answers readers without credentials, too.
	public bool
	// payers: readers have to say that they pay.
	payers bool
	// opaque: ETags look like an MD5 and are none.
	opaque bool
	// page is how many keys one answer lists; 0: 1000.
	page int
}

// standIn is an S3 server with one bucket, "bucket", for traits that no server has
// which can be run here. It is held against boto3.
type standIn struct {
	traits

	url string

	mu   sync.Mutex
	held held
	seen []string // METHOD and URI of each request
}

// held is what the bucket holds, and since when.
type held struct {
	files map[string][]byte
	at    time.Time
}

const standInHost = "s3.example.test"

// startStandIn serves files until t ends.
func startStandIn(t *testing.T, tr traits, files map[string][]byte) *standIn {
	t.Helper()
	s := &standIn{traits: tr, held: held{files, time.Date(2026, 2, 3, 4, 5, 6, 700_000_000, time.UTC)}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// requests returns the requests so far, and forgets them.
func (s *standIn) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

// replace replaces all objects, two seconds later.
func (s *standIn) replace(files map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held{files, s.held.at.Add(2 * time.Second)}
}

// ServeHTTP implements http.Handler.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.Host+r.RequestURI)
	held := s.held
	s.mu.Unlock()
	if s.rewrites {
		r.Header.Set("Accept-Encoding", "gzip, br")
		r.Header.Del("Amz-Sdk-Invocation-Id")
		r.Header.Del("Amz-Sdk-Request")
	}
	path, byName := strings.TrimPrefix(r.URL.Path, "/"), strings.HasPrefix(r.Host, "bucket.")
	if byName {
		path = "bucket/" + path
	}
	bucket, key, _ := strings.Cut(path, "/")
	content, found := held.files[key]
	status := s.status
	if status == 0 {
		status = http.StatusNotImplemented
	}
	switch {
	case s.onlyVirtual != "" && !byName:
		refuse(w, http.StatusForbidden, s.onlyVirtual)
	case slices.ContainsFunc(s.unknown, func(q string) bool { return r.URL.Query().Has(q) || r.Header.Get(q) != "" }):
		refuse(w, status, "NotImplemented")
	case s.noHead != 0 && r.Method == http.MethodHead:
		refuse(w, s.noHead, "MethodNotAllowed")
	case r.Header.Get("Authorization") == "" && !s.public:
		refuse(w, http.StatusForbidden, "AccessDenied")
	case r.Header.Get("Authorization") != "" && !signed(r):
		refuse(w, http.StatusForbidden, "SignatureDoesNotMatch")
	case s.payers && r.Header.Get("X-Amz-Request-Payer") != "requester":
		refuse(w, http.StatusForbidden, "AccessDenied")
	case bucket != "bucket":
		refuse(w, http.StatusNotFound, "NoSuchBucket")
	case key == "":
		s.list(w, r.URL.Query(), held)
	case !found:
		refuse(w, http.StatusNotFound, "NoSuchKey")
	default:
		s.object(w, r, content, held.at)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>As it is.</Message></Error>", code)
}

// signed reports whether the request, as it arrived, has the signature that it
// should have, over the headers that it names.
func signed(r *http.Request) bool {
	_, list, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
	list, _, _ = strings.Cut(list, ",")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return false
	}
	again := &http.Request{Method: r.Method, Host: r.Host, Header: http.Header{}, URL: &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}}
	for _, name := range strings.Split(list, ";") {
		if value := r.Header.Get(name); value != "" {
			again.Header.Set(name, value)
		}
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	err = signer.SignHTTP(r.Context(), aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", region, at)
	return err == nil && again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

// etagOf is an ETag as the server writes it.
func (s *standIn) etagOf(content []byte) string {
	if s.opaque {
		content = append([]byte("salt"), content...)
	}
	value := value(content)
	if s.etag != nil {
		return s.etag(value)
	}
	return `"` + value + `"`
}

func value(content []byte) string {
	sum := md5.Sum(content)
	return hex.EncodeToString(sum[:])
}

func (s *standIn) list(w http.ResponseWriter, q url.Values, held held) {
	v2 := q.Get("list-type") == "2" && !s.ignoresListType
	after := q.Get("marker")
	if v2 {
		after = q.Get("continuation-token")
	}
	write := func(key string) string { return key }
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>`)
	if q.Get("encoding-type") == "url" {
		write = url.QueryEscape
		b.WriteString("<EncodingType>url</EncodingType>")
	}
	page, n, last := s.page, 0, ""
	if page == 0 {
		page = 1000
	}
	for _, key := range slices.Sorted(maps.Keys(held.files)) {
		if key <= after || !strings.HasPrefix(key, q.Get("prefix")) {
			continue
		}
		if n++; n > page {
			b.WriteString("<IsTruncated>true</IsTruncated>")
			if v2 {
				b.WriteString("<NextContinuationToken>" + url.QueryEscape(last) + "</NextContinuationToken>")
			}
			break
		}
		last = key
		_, _ = fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>%d</Size><LastModified>%s</LastModified>", write(key), len(held.files[key]), held.at.Format("2006-01-02T15:04:05.000Z"))
		if !s.noETags {
			b.WriteString("<ETag>" + strings.ReplaceAll(s.etagOf(held.files[key]), `"`, "&quot;") + "</ETag>")
		}
		b.WriteString("</Contents>")
	}
	b.WriteString("</ListBucketResult>")
	w.Header().Set("Content-Type", "application/xml")
	_, _ = io.WriteString(w, b.String())
}

func (s *standIn) object(w http.ResponseWriter, r *http.Request, content []byte, at time.Time) {
	want := s.etagOf(content)
	if s.bareIfMatch {
		want = value(content)
	}
	if got := r.Header.Get("If-Match"); got != "" && got != want {
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	r.Header.Del("If-Match") // ServeContent has an opinion of its own
	if !s.noETags && (r.Method != http.MethodHead || !s.headWithoutETag) {
		w.Header()["ETag"] = []string{s.etagOf(content)}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", at, bytes.NewReader(content))
}
