package s3_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// listed answers every request with one page, and further ones with an empty one.
type listed struct {
	status int
	page   []byte
	asked  int
}

// RoundTrip implements http.RoundTripper.
func (l *listed) RoundTrip(r *http.Request) (*http.Response, error) {
	l.asked++
	page := l.page
	if l.asked > 3 {
		page = []byte("<ListBucketResult/>")
	}
	return &http.Response{
		StatusCode: l.status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/xml"}, "Content-Length": {strconv.Itoa(len(page))}},
		Body: io.NopCloser(bytes.NewReader(page)), ContentLength: int64(len(page)), Request: r,
	}, nil
}

// FuzzList: whatever answers in a list's place, List ends with files that have names and
// versions, or with an error of a kind.
func FuzzList(f *testing.F) {
	object := "<Contents><Key>m/config.json</Key><Size>2</Size><ETag>&quot;9e26&quot;</ETag></Contents>"
	for _, page := range []string{
		"<ListBucketResult>" + object + "</ListBucketResult>",
		"<ListBucketResult><EncodingType>url</EncodingType>" + strings.Replace(object, "config", "%zz", 1) + "</ListBucketResult>",
		"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>" + object + "</ListBucketResult>",
		"<ListBucketResult><IsTruncated>true</IsTruncated>" + object + "</ListBucketResult>",
		"<ListBucketResult>" + strings.Replace(object, ">2<", ">-2<", 1) + strings.Replace(object, ">2<", ">1e9<", 1) + "</ListBucketResult>",
		"<ListBucketResult>" + strings.Replace(object, "m/config.json", "m/../../x", 1) + "</ListBucketResult>",
		`<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ListBucketResult><Contents><Key>&b;</Key></Contents></ListBucketResult>`,
		"<Error><Code>SlowDown</Code><Message>\x1b[2J</Message></Error>", "", "<", "{}", strings.Repeat("<a>", 10_000), "<ListBucketResult>" + object,
	} {
		f.Add([]byte(page), http.StatusOK)
		f.Add([]byte(page), http.StatusForbidden)
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_REGION": region, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "", "AWS_CONFIG_FILE": f.TempDir() + "/none", "AWS_SHARED_CREDENTIALS_FILE": f.TempDir() + "/none",
		"AWS_EC2_METADATA_DISABLED": "true",
	} {
		f.Setenv(name, value)
	}
	transport := &listed{}
	driver, err := s3.New(fetcher.Access{Endpoint: "http://bucket.invalid"}, s3.Options{Transport: transport})
	if err != nil {
		f.Fatal(err)
	}
	src := fetcher.Source{Scheme: fetcher.SchemeS3, Path: "bucket/m"}
	f.Fuzz(func(t *testing.T, page []byte, status int) {
		transport.page, transport.status, transport.asked = page, 100+min(max(status-100, 0), 499), 0
		l, err := driver.List(t.Context(), src)
		if transport.asked > 5 {
			t.Errorf("%q: asked %d times", page, transport.asked)
		}
		if err != nil {
			var e *fetcher.Error
			if !errors.As(err, &e) || e.Kind == nil {
				t.Errorf("%q: an error of no kind: %v", page, err)
			}
			return
		}
		for _, file := range l.Files {
			if file.Version == "" && file.Unusable == nil {
				t.Errorf("%q lists %+v", page, file)
			}
		}
	})
}
