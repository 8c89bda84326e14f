package gcs_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/gcs"
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
		page = []byte("{}")
	}
	return &http.Response{
		StatusCode: l.status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(page)), ContentLength: int64(len(page)), Request: r,
	}, nil
}

// FuzzList: whatever answers in a list's place, List ends with files that have names and
// digests that can be, or with an error of a kind.
func FuzzList(f *testing.F) {
	object := `{"kind":"storage#object","name":"m/config.json","size":"2","generation":"1","crc32c":"AAAAAA==","md5Hash":"mZFLkyvTelC5g8XnyQrpOw=="}`
	for _, page := range []string{
		`{"items":[` + object + `]}`, `{"items":[` + object + `],"nextPageToken":"x"}`, `{"items":[null]}`, `{"items":{}}`, "", "null", "[]", "{",
		`{"items":[` + strings.Replace(object, `"2"`, `"-2"`, 1) + "," + strings.Replace(object, `"2"`, `2`, 1) + `]}`,
		`{"items":[` + strings.Replace(object, `"2"`, `"99999999999999999999"`, 1) + `]}`, `{"items":[` + strings.Replace(object, "AAAAAA==", "A", 1) + `]}`,
		`{"items":[` + strings.Replace(object, "AAAAAA==", "AAAAAAAAAAA=", 1) + `]}`, `{"items":[` + strings.Replace(object, "m/", "n/", 1) + `]}`,
		`{"items":[` + strings.Replace(object, "config.json", "../x", 1) + `]}`, `{"error":{"code":403,"message":"\u001b[2J","errors":[{"reason":"forbidden"}]}}`,
		strings.Repeat(`{"items":[`, 10_000),
	} {
		f.Add([]byte(page), http.StatusOK)
		f.Add([]byte(page), http.StatusForbidden)
	}
	transport := &listed{}
	f.Setenv("STORAGE_EMULATOR_HOST", "http://bucket.invalid")
	driver, err := gcs.New(fetcher.Access{}, gcs.Options{Transport: transport})
	if err != nil {
		f.Fatal(err)
	}
	src := fetcher.Source{Scheme: fetcher.SchemeGCS, Path: "bucket/m"}
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
			if file.Digest != "" && file.Digest.Check() != nil {
				t.Errorf("%q lists %+v", page, file)
			}
		}
	})
}
