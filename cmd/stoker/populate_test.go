package main

import (
	"errors"
	"testing"

	"github.com/stoker-project/stoker/agent/populate"
	"github.com/stoker-project/stoker/fetcher"
)

// What may be better at the next try decides about the exit code: a Job that is told
// that the source refuses is not run again.
func TestPopulateExitCode(t *testing.T) {
	refused, full := &fetcher.Error{Kind: fetcher.ErrRefused, Op: "pull", Err: errors.New("gated")}, &fetcher.Error{Kind: fetcher.ErrNoSpace, Op: "pull", Err: errors.New("full")}
	away := errors.New("no route to host")
	for name, tc := range map[string]struct {
		errs []error
		want int
	}{
		"none":                    {[]error{nil, nil}, exitOK},
		"refused":                 {[]error{refused, nil}, exitRefused},
		"away":                    {[]error{nil, away}, exitFailed},
		"refused and away":        {[]error{refused, away}, exitFailed},
		"away and refused":        {[]error{away, refused}, exitFailed},
		"refused and no room":     {[]error{refused, full}, exitNoSpace},
		"refused, away, and full": {[]error{refused, away, full}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			report := populate.Report{}
			for _, err := range tc.errs {
				report.Outcomes = append(report.Outcomes, populate.Outcome{Err: err})
			}
			if got := exitCode(t.Context(), worst(t.Context(), report, errors.Join(tc.errs...))); got != tc.want {
				t.Errorf("exit code %d, want %d", got, tc.want)
			}
		})
	}
}
