package gcs_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

// No byte of an answer that cannot be read gets into an error: what it repeats may
// be a credential that this driver never had.
func TestBrokenAnswers(t *testing.T) {
	const echoed = "an-echoed-credential"
	fetchertest.NoLookups(t)
	noEnvironment(t)
	for name, answer := range fetchertest.BrokenAnswers(echoed) {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			host := fetchertest.StartRaw(t, func(string) string { return answer })
			t.Setenv("STORAGE_EMULATOR_HOST", host) // without it, this machine is asked for an account of its own
			d := newDriver(t, fetcher.Access{}, gcs.Options{})
			src := source("bucket", "")
			_, listErr := d.List(t.Context(), src)
			if listErr == nil {
				t.Error("it was listed")
			}
			obj := fetcher.Object{Source: src, File: fetcher.File{Path: "config.json", Size: 2, Version: "1"}}
			_, openErr := fetchertest.ReadFrom(t.Context(), d, obj, 0)
			for _, err := range []error{listErr, openErr} {
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
	for _, size := range []string{"9223372036854775808", "18446744073709551616", "-1", "1e30", "many"} {
		t.Run(size, func(t *testing.T) {
			host := fetchertest.StartRaw(t, func(string) string {
				return fetchertest.RawAnswer("200 OK", `{"items":[{"name":"config.json","generation":"1","size":"`+size+`"}]}`)
			})
			t.Setenv("STORAGE_EMULATOR_HOST", host)
			l, err := newDriver(t, fetcher.Access{}, gcs.Options{}).List(t.Context(), source("bucket", ""))
			if !errors.Is(err, fetcher.ErrCorrupt) || strings.Contains(err.Error(), "many") {
				t.Errorf("error is %v, want one of content that does not verify; files: %+v", err, l.Files)
			}
		})
	}
}
