package hf_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// No byte of an answer that cannot be read gets into an error: the driver holds
// another token, and cannot know what it is that is repeated.
func TestBrokenAnswers(t *testing.T) {
	const echoed = "an-echoed-credential"
	fetchertest.NoLookups(t)
	for name, answer := range fetchertest.BrokenAnswers(echoed) {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			d := newDriver(t, "http://"+fetchertest.StartRaw(t, func(string) string { return answer }), token)
			_, listErr := d.List(t.Context(), source(""))
			if listErr == nil {
				t.Error("it was listed")
			}
			_, pinnedErr := d.List(t.Context(), source(strings.Repeat("a", 40)))
			obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: "config.json", Size: 2}}
			_, openErr := fetchertest.ReadFrom(t.Context(), d, obj, 0)
			for _, err := range []error{listErr, pinnedErr, openErr} {
				if err == nil {
					continue // not broken for this question
				}
				if strings.Contains(strings.ToLower(err.Error()), echoed) && name != "location's host" {
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
