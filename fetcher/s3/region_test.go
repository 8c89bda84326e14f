package s3_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// amazon answers as Amazon does of a bucket that is in eu-west-3.
type amazon struct{ hosts []string }

// RoundTrip implements http.RoundTripper.
func (a *amazon) RoundTrip(r *http.Request) (*http.Response, error) {
	a.hosts = append(a.hosts, r.URL.Host)
	status, body := http.StatusOK, `<ListBucketResult><Contents><Key>config.json</Key><Size>2</Size><ETag>"e"</ETag></Contents></ListBucketResult>`
	if r.URL.Host != "bucket.s3.eu-west-3.amazonaws.com" {
		status, body = http.StatusMovedPermanently, `<Error><Code>PermanentRedirect</Code><Endpoint>elsewhere.example.test</Endpoint></Error>`
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/xml"}, "X-Amz-Bucket-Region": {"eu-west-3"}},
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}, nil
}

// Amazon says where a bucket is. It is asked there at once, and from then on.
func TestAnotherRegion(t *testing.T) {
	ourEnvironment(t)
	a := &amazon{}
	d := newDriver(t, fetcher.Access{}, s3.Options{Transport: a})
	for range 2 {
		if _, err := d.List(t.Context(), source("bucket", "")); err != nil {
			t.Fatal(err)
		}
	}
	right := "bucket.s3.eu-west-3.amazonaws.com"
	if want := []string{"bucket.s3." + region + ".amazonaws.com", right, right}; !slices.Equal(a.hosts, want) {
		t.Errorf("asked %q, want %q", a.hosts, want)
	}
}
