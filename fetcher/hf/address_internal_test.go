package hf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

func urlOf(n int) *url.URL {
	return &url.URL{Scheme: "https", Host: "cdn.test", Path: fmt.Sprintf("/%d", n)}
}

var errNotFound = errors.New("nobody knows")

// What those get who wait while one of them finds out.
func TestAddressesOthersWait(t *testing.T) {
	for name, c := range map[string]struct {
		at  *url.URL
		err error
	}{
		"elsewhere":  {urlOf(1), nil},
		"at the Hub": {nil, nil},
		"failed":     {nil, errNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &addresses{limit: 2}
				key := fileKey{path: "model.safetensors"}
				at, settle := a.find(t.Context(), key)
				if at != nil || settle == nil {
					t.Fatalf("the first finds %v", at)
				}
				var group sync.WaitGroup
				var mu sync.Mutex
				got := 0
				for range 8 {
					group.Go(func() {
						at, settle := a.find(t.Context(), key)
						mu.Lock()
						defer mu.Unlock()
						got++
						if settle != nil || (at == nil) != (c.at == nil) || at != nil && *at != *c.at {
							t.Errorf("found %v, want %v", at, c.at)
						}
					})
				}
				ended, cancel := context.WithCancel(t.Context())
				group.Go(func() {
					if at, settle := a.find(ended, key); at != nil || settle != nil {
						t.Errorf("with an ended context, found %v", at)
					}
				})
				synctest.Wait() // all of them wait
				cancel()
				synctest.Wait()
				if mu.Lock(); got != 0 {
					t.Errorf("%d did not wait", got)
				}
				mu.Unlock()
				settle(c.at, c.err)
				group.Wait()

				// Whoever comes later waits no more; after a failure it is the first again.
				at, settle = a.find(t.Context(), key)
				if (settle != nil) != (c.err != nil) || (at != nil) != (c.at != nil) {
					t.Errorf("later, found %v; first is %v", at, settle != nil)
				}
			})
		})
	}
}

func TestAddressesForget(t *testing.T) {
	a := &addresses{limit: 2}
	key := fileKey{path: "model.safetensors"}
	a.learn(key, urlOf(1))
	a.forget(key, urlOf(2)) // another's place
	if at, _ := a.find(t.Context(), key); at == nil || *at != *urlOf(1) {
		t.Errorf("found %v", at)
	}
	a.forget(key, urlOf(1))
	at, settle := a.find(t.Context(), key)
	if at != nil || settle == nil {
		t.Errorf("after it was forgotten, found %v", at)
	}
	// While one finds out, others neither forget nor replace what is to come.
	a.forget(key, urlOf(1))
	a.learn(key, urlOf(3))
	settle(urlOf(4), nil)
	if at, _ := a.find(t.Context(), key); at == nil || *at != *urlOf(4) {
		t.Errorf("found %v", at)
	}
	a.learn(key, urlOf(5))
	if at, _ := a.find(t.Context(), key); at == nil || *at != *urlOf(5) {
		t.Errorf("found %v", at)
	}
}

// The address that was used last stays longest.
func TestAddressesAreBounded(t *testing.T) {
	a := &addresses{limit: 3}
	key := func(n int) fileKey { return fileKey{path: fmt.Sprint(n)} }
	for n := range 3 {
		a.learn(key(n), urlOf(n))
	}
	a.find(t.Context(), key(0))
	for n := 3; n < 1000; n++ {
		a.learn(key(n), urlOf(n))
		a.find(t.Context(), key(0))
		if len(a.files) > 3 {
			t.Fatalf("%d addresses are kept", len(a.files))
		}
	}
	for n, want := range map[int]bool{0: true, 1: false, 998: true, 999: true} {
		if _, kept := a.files[key(n)]; kept != want {
			t.Errorf("%d is kept: %v", n, kept)
		}
	}
	// One that is evicted while somebody finds it out serves those who wait.
	_, settle := a.find(t.Context(), key(-1))
	for n := range 3 {
		a.learn(key(n), urlOf(n))
	}
	settle(urlOf(-1), nil)
	if at, _ := a.find(t.Context(), key(2)); at == nil || len(a.files) != 3 {
		t.Errorf("found %v of %d", at, len(a.files))
	}
}

// What was forgotten for want of room costs another question, and no more.
func TestEvictedAddressIsAskedForAgain(t *testing.T) {
	const repoID = "acme/tiny-llama"
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	tree := fetchertest.Tree{}
	for n := range 3 {
		tree[fmt.Sprintf("%d.bin", n)] = fetchertest.Bytes(fmt.Appendf(nil, "file %d", n))
	}
	commit, err := hub.Push(t.Context(), repoID, "main", tree)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Endpoint: hub.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	d.addresses.limit = 2
	for _, n := range []int{0, 1, 0, 1, 2, 1, 0} {
		readBack(t, d, repoID, commit, n)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve})); n != 4 {
		t.Errorf("resolved %d times, want 4", n)
	}
}

// readBack reads a range of a file that holds "file" and its number.
func readBack(t *testing.T, d *Driver, repo, commit string, n int) {
	t.Helper()
	obj := fetcher.Object{
		Source:   fetcher.Source{Scheme: fetcher.SchemeHub, Path: repo},
		Revision: commit,
		File:     fetcher.File{Path: fmt.Sprintf("%d.bin", n), Size: 6},
	}
	body, err := d.Open(t.Context(), obj, 2, 4)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil || string(got) != fmt.Sprintf("le %d", n) {
		t.Errorf("read %q, %v", got, err)
	}
}

// Where each address is refused by the time that somebody asks for it, though others
// find new ones, a reader turns to the Hub after the second.
func TestAddressesThatAreAlwaysStale(t *testing.T) {
	hub, cdn := 0, 0
	key := fileKey{repo: "acme/tiny-llama", commit: strings.Repeat("a", 40), path: "0.bin"}
	var d *Driver
	d, err := New(Options{Endpoint: "http://hub.test", Transport: roundTripper(func(r *http.Request) *http.Response {
		switch {
		case r.URL.Host == "hub.test":
			hub++
			return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"https://cdn.test/fresh"}}}
		case r.URL.Path == "/fresh":
			return &http.Response{StatusCode: http.StatusOK}
		}
		cdn++
		d.addresses.learn(key, urlOf(cdn))
		return &http.Response{StatusCode: http.StatusForbidden}
	})})
	if err != nil {
		t.Fatal(err)
	}
	d.addresses.learn(key, urlOf(0))
	resp, err := d.fetch(t.Context(), operation{}, key, request{})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if hub != 1 || cdn != 2 {
		t.Errorf("%d stale addresses were tried, and the Hub asked %d times; want 2 and 1", cdn, hub)
	}
	if at, _ := d.addresses.find(t.Context(), key); at == nil || at.Path != "/fresh" {
		t.Errorf("remembered is %v", at)
	}
}

type roundTripper func(*http.Request) *http.Response

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := f(r)
	resp.Request, resp.Body = r, http.NoBody
	return resp, nil
}

func TestSameOrigin(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"https://hub.test", "https://hub.test/x?y", true},
		{"https://hub.test", "https://HUB.test:443", true},
		{"http://hub.test:80", "http://hub.test", true},
		{"http://hub.test", "https://hub.test", false},
		{"https://hub.test", "https://hub.test:444", false},
		{"https://hub.test:80", "http://hub.test:80", false},
		{"https://cdn.hub.test", "https://hub.test", false},
		{"https://hub.test.evil", "https://hub.test", false},
		{"https://xhub.test", "https://hub.test", false},
	} {
		a, errA := url.Parse(c.a)
		b, errB := url.Parse(c.b)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if sameOrigin(a, b) != c.want || sameOrigin(b, a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}
