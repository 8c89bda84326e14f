package hf_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

func TestExpiredSignatureIsAskedForAgain(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	remove := hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1, Effect: fetchertest.ExpiredSignature()})
	got, err := read(t, d, obj, 5)
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
		got, err := read(t, d, obj, offset)
		if err != nil || !bytes.Equal(got, tiny()[weights][offset:]) {
			t.Errorf("at %d: read %d bytes, %v", offset, len(got), err)
		}
	}
	for _, span := range [][2]int64{{0, 1}, {77, 1000}, {1 << 20, 5}} {
		body, err := d.Open(t.Context(), obj, span[0], span[1])
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, tiny()[weights][span[0]:span[0]+span[1]]) {
			t.Errorf("%d at %d: read %d bytes, %v", span[1], span[0], len(got), err)
		}
	}
	if _, err := d.Open(t.Context(), obj, 1<<20+1, 10); !errors.Is(err, fetcher.ErrTransient) {
		t.Errorf("far into the file: error is %v, want a passing one", err)
	}
}

// What comes after the range of a server that ignores it is not waited for.
func TestServerIgnoresRangeAndStalls(t *testing.T) {
	const size = 1 << 20
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = io.WriteString(w, "0123456789") // a client that left hears nothing
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: weights, Size: size}}
	body, err := newDriver(t, server.URL, "").Open(t.Context(), obj, 2, 8)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil || string(got) != "23456789" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A mirror that serves other bytes under the commit is found out before they
// are read.
func TestMirrorServesSomethingElse(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	d := newDriver(t, hub.URL(), "")
	for _, path := range []string{weights, "config.json"} {
		obj := object(t, d, path)
		obj.File.Digest = fetcher.NewDigest(obj.File.Digest.Algorithm(), strings.Repeat("0", len(obj.File.Digest.Hex())))
		if _, err := d.Open(t.Context(), obj, 0, obj.File.Size); !errors.Is(err, fetcher.ErrCorrupt) {
			t.Errorf("%s: error is %v, want corrupt", path, err)
		}
	}
	obj := object(t, d, weights)
	obj.File.Size++
	if _, err := d.Open(t.Context(), obj, 0, obj.File.Size); !errors.Is(err, fetcher.ErrTransient) {
		t.Errorf("other size: error is %v, want a passing one", err)
	}
}
