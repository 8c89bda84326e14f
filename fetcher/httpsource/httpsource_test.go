package httpsource_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

func TestPart(t *testing.T) {
	for _, c := range []struct {
		part           httpsource.Part
		offset, length int64
		ok             bool
	}{
		{httpsource.Part{Status: 206, Range: "bytes 2-9/10", Length: 8}, 2, 8, true},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/*", Length: -1}, 2, 8, true},
		{httpsource.Part{Status: 206, Range: "bytes 2-4/10", Length: 3}, 2, 3, true},
		{httpsource.Part{Status: 206, Range: "bytes 0-0/10", Length: 1}, 0, 1, true},
		{httpsource.Part{Status: 206, Range: "bytes 0-9/10", Length: 10}, 0, 10, true},
		{httpsource.Part{Status: 206, Range: "Bytes 2-4/10", Length: 3}, 2, 3, true},
		{httpsource.Part{Status: 206, Range: "BYTES 2-9/*", Length: 8}, 2, 8, true},
		{httpsource.Part{Status: 206, Range: "bytes=2-4/10", Length: 3}, 2, 3, false},
		{httpsource.Part{Status: 206, Range: "bytes  2-4/10", Length: 3}, 2, 3, false},
		{httpsource.Part{Status: 200, Length: 10}, 0, 10, true},
		{httpsource.Part{Status: 200, Length: 10}, 2, 8, false},
		{httpsource.Part{Status: 200, Length: 10}, 0, 9, false},
		{httpsource.Part{Status: 200, Length: 9}, 0, 9, false},
		{httpsource.Part{Status: 200, Length: -1}, 0, 10, true},
		{httpsource.Part{Status: 200, Length: -1}, 0, 9, false},
		{httpsource.Part{Status: 200, Length: -1}, 2, 8, false},
		{httpsource.Part{Status: 200, Length: -1}, 2, 3, false},
		{httpsource.Part{Status: 200, Length: 9}, 0, 10, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/11", Length: 8}, 2, 8, false},
		{httpsource.Part{Status: 206, Range: "bytes 3-9/10", Length: 7}, 2, 8, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-8/10", Length: 7}, 2, 8, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/10", Length: 7}, 2, 8, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/10", Length: 8}, 2, 3, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-4/10", Length: 3}, 2, 8, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-3/10", Length: 2}, 2, 3, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-4/10", Length: 8}, 2, 3, false},
		{httpsource.Part{Status: 206, Range: "", Length: 8}, 2, 8, false},
		{httpsource.Part{Status: 204, Length: 0}, 0, 10, false},
	} {
		if err := c.part.Check(10, c.offset, c.length); (err == nil) != c.ok {
			t.Errorf("%+v for %d bytes from %d is %v, want good: %v", c.part, c.length, c.offset, err, c.ok)
		}
	}
}

// Another range may be a confusion that passes; another grammar is the server's own.
func TestKindOfPart(t *testing.T) {
	for given, want := range map[string]error{
		"bytes=2-4/10": fetcher.ErrRefused, "2-4/10": fetcher.ErrRefused, "items 2-4/10": fetcher.ErrRefused,
		"bytes 3-4/10": fetcher.ErrTransient, "bytes */10": fetcher.ErrTransient, "": fetcher.ErrTransient,
	} {
		err := httpsource.Part{Status: 206, Range: given, Length: 3}.Check(10, 2, 3)
		if err == nil || !errors.Is(httpsource.KindOfPart(err), want) {
			t.Errorf("%q is %v: %v, want %v", given, err, httpsource.KindOfPart(err), want)
		}
	}
}

func TestRange(t *testing.T) {
	for _, c := range []struct {
		offset, length int64
		want           string
	}{
		{0, 10, "bytes=0-"}, {2, 8, "bytes=2-"}, {9, 1, "bytes=9-"}, {0, 9, "bytes=0-8"}, {2, 1, "bytes=2-2"}, {2, 7, "bytes=2-8"},
	} {
		if got := httpsource.Range(10, c.offset, c.length); got != c.want {
			t.Errorf("%d bytes from %d are %s, want %s", c.length, c.offset, got, c.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "0": 0, "-3": 0, "soon": 0, "999999": 999999 * time.Second, "4294967295": 4294967295 * time.Second, "99999999999999999999": 0,
		"Sun, 06 Nov 1994 08:49:37 GMT": 0, "Thu, 01 Jan 1970 00:00:01 GMT": 0,
	} {
		if got := httpsource.RetryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("Retry-After: %s is %s, want %s", value, got, want)
		}
	}
}

func TestRetryAfterDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(30 * 365 * 24 * time.Hour)
		if got := httpsource.RetryAfter(http.Header{"Retry-After": {at.UTC().Format(http.TimeFormat)}}); got != time.Until(at) {
			t.Errorf("until a date, it is %s, want %s", got, time.Until(at))
		}
	})
}

func TestPathOf(t *testing.T) {
	for _, c := range []struct {
		name, prefix string
		size         int64
		path         string
		isFile, ok   bool
	}{
		{"llama/a/b.bin", "llama/", 1, "a/b.bin", true, true},
		{"b.bin", "", 0, "b.bin", true, true},
		{"llama/", "llama/", 0, "", false, true},
		{"llama/a/", "llama/", 0, "", false, true},
		{"llama/a/", "llama/", 1, "a/", true, true}, // a folder with content: the engine refuses the name
		{"llama/", "llama/", 1, "", true, true},
		{"llama-2/b.bin", "llama/", 1, "", false, false},
		{"../b.bin", "", 1, "../b.bin", true, true}, // likewise
	} {
		path, isFile, err := httpsource.PathOf(c.name, c.prefix, c.size)
		if path != c.path || isFile != c.isFile || (err == nil) != c.ok {
			t.Errorf("%q under %q is %q, %v, %v", c.name, c.prefix, path, isFile, err)
		}
	}
}

func TestRevision(t *testing.T) {
	a, b := fetcher.File{Path: "a", Size: 1, Version: "v"}, fetcher.File{Path: "b", Size: 2, Version: "w"}
	base := httpsource.Revision([]fetcher.File{a, b})
	if len(base) != 64 || base != httpsource.Revision([]fetcher.File{b, a}) {
		t.Errorf("revision %s depends on the order", base)
	}
	for _, files := range [][]fetcher.File{
		nil,
		{a},
		{a, {Path: "b", Size: 2, Version: "x"}},
		{a, {Path: "b", Size: 3, Version: "w"}},
		{a, {Path: "c", Size: 2, Version: "w"}},
		{{Path: "a\" 1 \"v\"\n\"b", Size: 2, Version: "w"}},
	} {
		if httpsource.Revision(files) == base {
			t.Errorf("%+v has the revision of another list", files)
		}
	}
}

func TestBody(t *testing.T) {
	op := httpsource.Operation{Verb: "open", Origin: "a.bin of s3://bucket"}
	body := func(content string, left int64) *httpsource.Body {
		return httpsource.NewBody(t.Context(), op, "host", io.NopCloser(strings.NewReader(content)), left)
	}
	if got, err := io.ReadAll(body("12345", 5)); err != nil || string(got) != "12345" {
		t.Errorf("read %q, %v", got, err)
	}
	if got, err := io.ReadAll(body("12345xx", 5)); err != nil || string(got) != "12345" {
		t.Errorf("of too much, read %q, %v", got, err)
	}
	got, err := io.ReadAll(body("123", 5))
	if !errors.Is(err, fetcher.ErrTransient) || !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "123" {
		t.Errorf("of too little, read %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := httpsource.NewBody(ctx, op, "host", http.NoBody, 5).Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context, read %v", err)
	}
}

// A chunked body has a mark at its end, which must be read for the connection to
// serve again.
func TestBodyKeepsItsConnection(t *testing.T) {
	wasRead, ended := make(chan struct{}), make(chan struct{}, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "123456789012345") // a client that left hears nothing
		_ = http.NewResponseController(w).Flush()
		<-wasRead // so that the mark comes by itself
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			ended <- struct{}{}
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	transport := httpsource.NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	fresh := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			fresh++
		}
	}})
	read := func(length int) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body := httpsource.NewBody(ctx, httpsource.Operation{}, "host", resp.Body, 15)
		if _, err := io.ReadFull(body, make([]byte, length)); err != nil {
			t.Error(err)
		}
		wasRead <- struct{}{}
		<-ended
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 5 {
		read(15)
	}
	if fresh != 1 {
		t.Errorf("five bodies that were read took %d connections, want 1", fresh)
	}
	read(7) // what is left of it must not be read before the next
	read(15)
	if fresh != 2 {
		t.Errorf("after a body that was not read there were %d connections, want 2", fresh)
	}
}

// A body all of whose bytes have come, and whose end has not.
type endless struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	<-e.closed
	return 0, net.ErrClosed
}

func (e *endless) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

func TestBodyDoesNotWaitForItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := httpsource.NewBody(t.Context(), httpsource.Operation{}, "host", &endless{Reader: strings.NewReader("12345"), closed: make(chan struct{})}, 5)
		if got, err := io.ReadAll(body); err != nil || string(got) != "12345" {
			t.Errorf("read %q, %v", got, err)
		}
		start := time.Now()
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("closing took %s, want a second", took)
		}
	})
}
