package hf_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
)

// readRanges reads the weights in n ranges, all at once, and tells of each one that
// ended.
func readRanges(t *testing.T, d *hf.Driver, obj fetcher.Object, n int64, ended func()) {
	t.Helper()
	var group sync.WaitGroup
	defer group.Wait()
	for i := range n {
		from, to := i*obj.File.Size/n, (i+1)*obj.File.Size/n
		group.Go(func() {
			got, err := fetchertest.ReadRange(t.Context(), d, obj, from, to-from)
			if err != nil || !bytes.Equal(got, tiny()[weights][from:to]) {
				t.Errorf("at %d: read %d bytes, %v", from, len(got), err)
			}
			if ended != nil {
				ended()
			}
		})
	}
}

func count(hub *fetchertest.Hub, kind fetchertest.Kind) int {
	return len(hub.Requests(fetchertest.Match{Kind: kind}))
}

// However many ranges, and however many at once: the Hub is asked once where the
// file is, and only the Hub is sent the token.
func TestRangesCostOneResolve(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true, Tokens: []string{token}})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), token)
	obj := object(t, d, weights)
	for range 3 {
		readRanges(t, d, obj, 40, nil)
	}
	if n := count(hub, fetchertest.KindResolve); n != 1 {
		t.Errorf("resolved %d times, want 1", n)
	}
	if n := count(hub, fetchertest.KindCDN); n != 120 {
		t.Errorf("%d requests at the CDN, want 120", n)
	}
	if leaks := hub.Leaks(); len(leaks) > 0 {
		t.Errorf("the token went to the CDN: %+v", leaks)
	}
	// Another file, and what the Hub serves itself, are asked for by themselves.
	config := object(t, d, "config.json")
	for range 3 {
		if got, err := fetchertest.ReadRange(t.Context(), d, config, 1, 1); err != nil || string(got) != "}" {
			t.Errorf("read %q, %v", got, err)
		}
	}
	if n := count(hub, fetchertest.KindResolve); n != 4 {
		t.Errorf("resolved %d times, want 4", n)
	}
}

// Addresses that expire under many readers cost one more question.
func TestAddressExpires(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	readRanges(t, d, obj, 8, nil)
	hub.ExpireSignatures()
	readRanges(t, d, obj, 40, nil)
	if n := count(hub, fetchertest.KindResolve); n != 2 {
		t.Errorf("resolved %d times, want 2", n)
	}
	// In the middle of it, each expiry costs at most one.
	var ended atomic.Int32
	readRanges(t, d, obj, 100, func() {
		if ended.Add(1) == 50 {
			hub.ExpireSignatures()
		}
	})
	if n := count(hub, fetchertest.KindResolve); n > 3 {
		t.Errorf("resolved %d times, want 3 at most", n)
	}
}

// All the ways in which hosts say that an address is no good any more, and those
// that say something else.
func TestAddressIsRefused(t *testing.T) {
	for _, c := range []struct {
		status   int
		resolves int // after the first
		kind     error
	}{
		{http.StatusBadRequest, 1, nil},
		{http.StatusUnauthorized, 1, nil},
		{http.StatusForbidden, 1, nil},
		{http.StatusNotFound, 1, nil},
		{http.StatusGone, 1, nil},
		{http.StatusTemporaryRedirect, 1, nil},
		{http.StatusTooManyRequests, 0, fetcher.ErrThrottled},
		{http.StatusServiceUnavailable, 1, fetcher.ErrTransient}, // the next try asks anew
	} {
		t.Run(strconv.Itoa(c.status), func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
			push(t, hub, tiny())
			d := newDriver(t, hub.URL(), "")
			obj := object(t, d, weights)
			if _, err := fetchertest.ReadRange(t.Context(), d, obj, 0, 10); err != nil {
				t.Fatal(err)
			}
			hub.ResetLog()
			// Elsewhere leads nowhere; what the Hub named before is not followed further.
			header := http.Header{"Location": {"http://127.0.0.1:1/elsewhere"}}
			hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1, Effect: fetchertest.Answer(c.status, header, "")})
			_, err := fetchertest.ReadRange(t.Context(), d, obj, 10, 10)
			if c.kind != nil {
				if !errors.Is(err, c.kind) {
					t.Errorf("error is %v, want one that is %q", err, c.kind)
				}
				_, err = fetchertest.ReadRange(t.Context(), d, obj, 10, 10)
			}
			if err != nil {
				t.Error(err)
			}
			if n := count(hub, fetchertest.KindResolve); n != c.resolves {
				t.Errorf("resolved %d times, want %d", n, c.resolves)
			}
		})
	}
}

// What refuses a fresh address as well fails as it would have the first time.
func TestFreshAddressIsRefused(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	if _, err := fetchertest.ReadRange(t.Context(), d, obj, 0, 10); err != nil {
		t.Fatal(err)
	}
	hub.ResetLog()
	hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Effect: fetchertest.Status(http.StatusNotFound)})
	_, err := d.Open(t.Context(), obj, 10, 10)
	if !errors.Is(err, fetcher.ErrRefused) {
		t.Errorf("error is %v, want a refusal", err)
	}
	if r, c := count(hub, fetchertest.KindResolve), count(hub, fetchertest.KindCDN); r != 1 || c != 2 {
		t.Errorf("%d resolves and %d addresses, want 1 and 2", r, c)
	}
}

// A used-up quota of resolves does not hold those who need none.
func TestAddressOutlivesQuota(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Quota: fetchertest.Quota{Resolves: 1, Window: time.Minute}})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	readRanges(t, d, obj, 10, nil)
	if n := count(hub, fetchertest.KindResolve); n != 1 {
		t.Errorf("resolved %d times, want 1", n)
	}
	hub.ExpireSignatures()
	if _, err := d.Open(t.Context(), obj, 0, 10); !errors.Is(err, fetcher.ErrThrottled) {
		t.Errorf("error is %v, want throttled", err)
	}
}

// A body of the wrong range makes the driver ask anew where the file is.
func TestAddressOfAnotherFile(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	readRanges(t, d, obj, 2, nil)
	hub.Inject(fetchertest.Fault{
		Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1,
		Effect: fetchertest.Answer(http.StatusPartialContent, http.Header{"Content-Range": {"bytes 0-3/4"}}, "page"),
	})
	if _, err := d.Open(t.Context(), obj, 0, 10); !errors.Is(err, fetcher.ErrTransient) {
		t.Errorf("error is %v, want a passing one", err)
	}
	readRanges(t, d, obj, 2, nil)
	if n := count(hub, fetchertest.KindResolve); n != 2 {
		t.Errorf("resolved %d times, want 2", n)
	}
}

// The identity of what the Hub serves is checked for each listing that is read.
func TestAddressIsOfOneListing(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	readRanges(t, d, obj, 2, nil)
	obj.File.Digest = fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
	if _, err := d.Open(t.Context(), obj, 0, 10); !errors.Is(err, fetcher.ErrCorrupt) {
		t.Errorf("error is %v, want corrupt", err)
	}
}

// hop is a host that sends readers on, or serves ranges of content.
type hop struct {
	*httptest.Server
	asked, tokens atomic.Int32
}

func newHop(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int32)) *hop {
	t.Helper()
	h := &hop{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			h.tokens.Add(1)
		}
		answer(w, r, h.asked.Add(1))
	}))
	t.Cleanup(h.Close)
	return h
}

const hopContent = "0123456789"

func serveHop(w http.ResponseWriter, r *http.Request, _ int32) {
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(hopContent))
}

func sendTo(to func() string) func(http.ResponseWriter, *http.Request, int32) {
	return func(w http.ResponseWriter, _ *http.Request, _ int32) {
		w.Header().Set("Location", to())
		w.WriteHeader(http.StatusFound)
	}
}

// readHops reads three ranges of a file by way of a Hub.
func readHops(t *testing.T, hub *hop) {
	t.Helper()
	d := newDriver(t, hub.URL, token)
	obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: weights, Size: int64(len(hopContent))}}
	for i := range int64(3) {
		got, err := fetchertest.ReadRange(t.Context(), d, obj, i, 2)
		if err != nil || string(got) != hopContent[i:i+2] {
			t.Errorf("read %q, %v", got, err)
		}
	}
}

func checkHop(t *testing.T, name string, h *hop, asked, tokens int32) {
	t.Helper()
	if a, k := h.asked.Load(), h.tokens.Load(); a != asked || k != tokens {
		t.Errorf("%s was asked %d times, %d of them with the token; want %d and %d", name, a, k, asked, tokens)
	}
}

// Of several hosts the last is remembered; none but the Hub is sent the token.
func TestAddressBehindSeveralHosts(t *testing.T) {
	last := newHop(t, serveHop)
	middle := newHop(t, sendTo(func() string { return last.URL + "/x?Signature=abc" }))
	hub := newHop(t, func(w http.ResponseWriter, r *http.Request, n int32) {
		to := middle.URL + "/x"
		if !strings.HasPrefix(r.URL.Path, "/cache/") {
			to = "/cache" + r.URL.Path // within the Hub's own host first
		}
		sendTo(func() string { return to })(w, r, n)
	})
	readHops(t, hub)
	checkHop(t, "the Hub", hub, 2, 2)
	checkHop(t, "the middle", middle, 1, 0)
	checkHop(t, "the last", last, 3, 0)
}

// Behind another host the Hub is asked again, with the token: what comes after that
// may be for its holder alone.
func TestAddressBehindTheHubAgain(t *testing.T) {
	last := newHop(t, serveHop)
	var hub *hop
	middle := newHop(t, sendTo(func() string { return hub.URL + "/again" }))
	hub = newHop(t, func(w http.ResponseWriter, r *http.Request, n int32) {
		to := middle.URL
		if r.URL.Path == "/again" {
			to = last.URL
		}
		sendTo(func() string { return to })(w, r, n)
	})
	readHops(t, hub)
	checkHop(t, "the Hub", hub, 6, 6)
	checkHop(t, "the middle", middle, 3, 0)
	checkHop(t, "the last", last, 3, 0)
}

// Addresses that are good for one use each: everybody gets one of their own in the
// end, however many want one.
func TestAddressOfOneUse(t *testing.T) {
	var mu sync.Mutex
	used := map[string]bool{}
	cdn := newHop(t, func(w http.ResponseWriter, r *http.Request, n int32) {
		mu.Lock()
		again := used[r.URL.RawQuery]
		used[r.URL.RawQuery] = true
		mu.Unlock()
		if again {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		serveHop(w, r, n)
	})
	hub := newHop(t, func(w http.ResponseWriter, r *http.Request, n int32) {
		sendTo(func() string { return fmt.Sprintf("%s/x?Signature=%d", cdn.URL, n) })(w, r, n)
	})
	d := newDriver(t, hub.URL, token)
	obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: weights, Size: int64(len(hopContent))}}
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			if got, err := fetchertest.ReadRange(t.Context(), d, obj, 3, 4); err != nil || string(got) != hopContent[3:7] {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	group.Wait()
	if n := cdn.tokens.Load(); n != 0 {
		t.Errorf("%d requests carried the token to the CDN", n)
	}
	if n := hub.asked.Load(); n > 32 {
		t.Errorf("the Hub was asked %d times for 32 ranges", n)
	}
}

// One who waits for another's answer goes when its own context ends, and asks for
// itself when the other gave up.
func TestAddressOfOneWhoGaveUp(t *testing.T) {
	arrived := make(chan struct{})
	cdn := newHop(t, serveHop)
	hub := newHop(t, func(w http.ResponseWriter, r *http.Request, n int32) {
		if n == 1 {
			close(arrived)
			<-r.Context().Done() // no answer
			return
		}
		sendTo(func() string { return cdn.URL })(w, r, n)
	})
	d := newDriver(t, hub.URL, "")
	obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: weights, Size: int64(len(hopContent))}}
	firstCtx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	first := make(chan error, 1)
	go func() {
		_, err := fetchertest.ReadRange(firstCtx, d, obj, 0, 2)
		first <- err
	}()
	<-arrived
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := fetchertest.ReadRange(impatient, d, obj, 2, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want that of the deadline", err)
	}
	if n := hub.asked.Load(); n != 1 {
		t.Errorf("while one asks, the Hub is asked %d times", n)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if got, err := fetchertest.ReadRange(t.Context(), d, obj, 4, 2); err != nil || string(got) != "45" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first ends with %v", err)
	}
	group.Wait()
}
