package gcs_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

// Public buckets need no credentials. To find out that there are none, Google's
// client asks the network for a metadata server, which a test must not: it runs
// once more in a process that has no network.
func TestAnonymous(t *testing.T) {
	const alone = "STOKER_TEST_NO_NETWORK"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAnonymous$")
		cmd.Env = append(os.Environ(), alone+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("SKIPPED: this machine lets nobody make network namespaces: %v", err)
		}
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}

	noEnvironment(t)
	t.Setenv("GCE_METADATA_HOST", "")
	asked := 0
	d := newDriver(t, fetcher.Access{}, gcs.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		asked++
		if r.URL.Host != "storage.googleapis.com" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked %s with the credentials %q", r.URL.Host, r.Header.Get("Authorization"))
		}
		body := io.NopCloser(strings.NewReader(`{"items": [{"name": "config.json", "size": "2", "generation": "1"}]}`))
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: r}, nil
	})})
	l, err := d.List(t.Context(), source("bucket", ""))
	if err != nil || len(l.Files) != 1 || asked != 1 {
		t.Errorf("listed %+v with %d requests, %v", l.Files, asked, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
