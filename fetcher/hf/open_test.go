package hf_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
)

func TestExpiredSignatureIsAskedForAgain(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	remove := hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1, Effect: fetchertest.ExpiredSignature()})
	got, err := fetchertest.ReadFrom(t.Context(), d, obj, 5)
	if err != nil || !bytes.Equal(got, tiny()[weights][5:]) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve})); n != 2 {
		t.Errorf("resolved %d times, want 2", n)
	}
	remove()
	hub.ResetLog()
	hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Effect: fetchertest.ExpiredSignature()})
	_, err = d.Open(t.Context(), obj, 0, obj.File.Size)
	if !errors.Is(err, fetcher.ErrTransient) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("error is %v, want a passing one that speaks of the clock", err)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve})); n != 1 {
		t.Errorf("resolved %d times, want 1 and no more: the first address was remembered", n)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindCDN})); n != 2 {
		t.Errorf("%d addresses were tried, want 2", n)
	}
	if strings.Contains(err.Error(), "Signature=") {
		t.Error("the error shows the signed URL")
	}
}

func TestServerIgnoresRange(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Effect: fetchertest.IgnoreRange()})
	obj := object(t, d, weights)
	for _, offset := range []int64{0, 77, 1 << 20} {
		got, err := fetchertest.ReadFrom(t.Context(), d, obj, offset)
		if err != nil || !bytes.Equal(got, tiny()[weights][offset:]) {
			t.Errorf("at %d: read %d bytes, %v", offset, len(got), err)
		}
	}
	for _, span := range [][2]int64{{0, 1}, {77, 1000}, {1 << 20, 5}} {
		got, err := fetchertest.ReadRange(t.Context(), d, obj, span[0], span[1])
		if err != nil || !bytes.Equal(got, tiny()[weights][span[0]:span[0]+span[1]]) {
			t.Errorf("%d at %d: read %d bytes, %v", span[1], span[0], len(got), err)
		}
	}
	if _, err := d.Open(t.Context(), obj, 1<<20+1, 10); !errors.Is(err, fetcher.ErrTransient) {
		t.Errorf("far into the file: error is %v, want a passing one", err)
	}
}

// Bodies of the right length that are another part of the file, or of another file.
func TestOtherRanges(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	size := obj.File.Size
	for _, c := range []struct {
		status       int
		contentRange string
		ok           bool
	}{
		{http.StatusPartialContent, fmt.Sprintf("bytes 2-5/%d", size), true},
		{http.StatusPartialContent, "bytes 2-5/*", true},
		{http.StatusPartialContent, fmt.Sprintf("bytes 0-3/%d", size), false},
		{http.StatusPartialContent, fmt.Sprintf("bytes 2-6/%d", size), false},
		{http.StatusPartialContent, fmt.Sprintf("bytes 2-5/%d", size+1), false},
		{http.StatusPartialContent, "", false},
		{http.StatusOK, "", false},
		{http.StatusNoContent, "", false},
	} {
		remove := hub.Inject(fetchertest.Fault{
			Match:  fetchertest.Match{Kind: fetchertest.KindCDN},
			Effect: fetchertest.Answer(c.status, http.Header{"Content-Range": {c.contentRange}}, "abcd"),
		})
		got, err := fetchertest.ReadRange(t.Context(), d, obj, 2, 4)
		remove()
		if c.ok && (err != nil || string(got) != "abcd") || !c.ok && !errors.Is(err, fetcher.ErrTransient) {
			t.Errorf("%d with the range %q: read %q, %v", c.status, c.contentRange, got, err)
		}
	}
}

// What comes after the range of a server that ignores it is not asked for.
func TestServerIgnoresRangeIsReadNoFurther(t *testing.T) {
	const size = 1 << 20
	sent := &rest{t: t, front: strings.NewReader("0123456789")}
	d, err := hf.New(hf.Options{Endpoint: "http://hub.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, ContentLength: size, Body: sent, Request: r}, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: weights, Size: size}}
	got, err := fetchertest.ReadRange(t.Context(), d, obj, 2, 8)
	if err != nil || string(got) != "23456789" || !sent.closed {
		t.Errorf("read %q, %v; closed is %v", got, err, sent.closed)
	}
}

// rest is a body of which nothing after its front may be read.
type rest struct {
	t      *testing.T
	front  *strings.Reader
	closed bool
}

func (r *rest) Read(p []byte) (int, error) {
	if r.front.Len() == 0 {
		r.t.Error("read beyond the range")
	}
	return r.front.Read(p)
}

func (r *rest) Close() error {
	r.closed = true
	return nil
}

// A mirror that serves another large file under the commit is found out before it is
// read. Of others, the bytes' digest tells.
func TestMirrorServesSomethingElse(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	obj.File.Digest = fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
	if _, err := d.Open(t.Context(), obj, 0, obj.File.Size); !errors.Is(err, fetcher.ErrCorrupt) {
		t.Errorf("error is %v, want corrupt", err)
	}
	obj = object(t, d, weights)
	obj.File.Size++
	if _, err := d.Open(t.Context(), obj, 0, obj.File.Size); !errors.Is(err, fetcher.ErrTransient) {
		t.Errorf("other size: error is %v, want a passing one", err)
	}
}

// The CDN's own words on when to come back.
func TestCDNAsksForPatience(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	for status, kind := range map[int]error{http.StatusTooManyRequests: fetcher.ErrThrottled, http.StatusServiceUnavailable: fetcher.ErrTransient} {
		d := newDriver(t, hub.URL(), "")
		obj := object(t, d, weights)
		refuse := fetchertest.Fault{
			Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1,
			Effect: fetchertest.Answer(status, http.Header{"Retry-After": {"7"}}, ""),
		}
		for range 2 { // by way of the Hub, and at the address it named
			remove := hub.Inject(refuse)
			_, err := d.Open(t.Context(), obj, 0, 10)
			remove()
			var e *fetcher.Error
			if !errors.As(err, &e) || !errors.Is(err, kind) || e.RetryAfter != 7*time.Second {
				t.Errorf("%d: error is %v, want one that is %q for 7 seconds", status, err, kind)
			}
			if _, err := fetchertest.ReadRange(t.Context(), d, obj, 0, 10); err != nil {
				t.Error(err)
			}
		}
	}
}
