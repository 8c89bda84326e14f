package s3_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// No byte of an answer that cannot be read gets into an error: what it repeats may
// be a credential that this driver never had.
func TestBrokenAnswers(t *testing.T) {
	const echoed = "an-echoed-credential"
	fetchertest.NoLookups(t)
	noEnvironment(t)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	for name, answer := range fetchertest.BrokenAnswers(echoed) {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			host := fetchertest.StartRaw(t, func(string) string { return answer })
			d := newDriver(t, fetcher.Access{Endpoint: "http://" + host}, s3.Options{})
			src := source("bucket", "")
			_, listErr := d.List(t.Context(), src)
			if listErr == nil {
				t.Error("it was listed")
			}
			obj := fetcher.Object{Source: src, File: fetcher.File{Path: "config.json", Size: 2, Version: "1"}}
			_, openErr := fetchertest.ReadFrom(t.Context(), d, obj, 0)
			_, vouchErr := d.Vouch(t.Context(), obj)
			for _, err := range []error{listErr, openErr, vouchErr} {
				if err == nil {
					continue // not broken for this question
				}
				if strings.Contains(strings.ToLower(err.Error()), echoed) {
					t.Errorf("the error repeats it: %v", err)
				}
				var e *fetcher.Error
				if !errors.As(err, &e) {
					t.Errorf("error is of no kind: %v", err)
				}
			}
		})
	}
}

// A size that no object has is the server's own, and would be the same the next time.
func TestImpossibleSize(t *testing.T) {
	noEnvironment(t)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	for _, size := range []string{"9223372036854775808", "18446744073709551616", "-1", "1e30", "many"} {
		t.Run(size, func(t *testing.T) {
			host := fetchertest.StartRaw(t, func(string) string {
				return fetchertest.RawAnswer("200 OK", "<ListBucketResult><Contents><Key>config.json</Key><ETag>e</ETag><Size>"+size+"</Size></Contents></ListBucketResult>")
			})
			l, err := newDriver(t, fetcher.Access{Endpoint: "http://" + host}, s3.Options{}).List(t.Context(), source("bucket", ""))
			if !errors.Is(err, fetcher.ErrCorrupt) || strings.Contains(err.Error(), "many") {
				t.Errorf("error is %v, want one of content that does not verify; files: %+v", err, l.Files)
			}
		})
	}
}
