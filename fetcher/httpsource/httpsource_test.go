package httpsource_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

func TestPart(t *testing.T) {
	for _, c := range []struct {
		part   httpsource.Part
		offset int64
		ok     bool
	}{
		{httpsource.Part{Status: 206, Range: "bytes 2-9/10", Length: 8}, 2, true},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/*", Length: -1, Encoding: "identity"}, 2, true},
		{httpsource.Part{Status: 200, Length: 10}, 0, true},
		{httpsource.Part{Status: 200, Length: 10}, 2, false},
		{httpsource.Part{Status: 200, Length: 9}, 0, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/11", Length: 8}, 2, false},
		{httpsource.Part{Status: 206, Range: "bytes 3-9/10", Length: 7}, 2, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-8/10", Length: 7}, 2, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/10", Length: 7}, 2, false},
		{httpsource.Part{Status: 206, Range: "bytes 2-9/10", Length: 8, Encoding: "gzip"}, 2, false},
		{httpsource.Part{Status: 204, Length: 0}, 0, false},
	} {
		if err := c.part.Check(10, c.offset); (err == nil) != c.ok {
			t.Errorf("%+v from %d is %v, want good: %v", c.part, c.offset, err, c.ok)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "0": 0, "-3": 0, "soon": 0, "999999": time.Hour, "99999999999999999999": 0,
		"Sun, 06 Nov 1994 08:49:37 GMT": 0, "Fri, 31 Dec 2199 23:59:59 GMT": time.Hour,
	} {
		if got := httpsource.RetryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("Retry-After: %s is %s, want %s", value, got, want)
		}
	}
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

func TestPlain(t *testing.T) {
	if got := httpsource.Plain("a\nb\x1b[31m\u202e" + strings.Repeat("x", 500)); strings.ContainsAny(got, "\n\x1b\u202e") || len(got) > 210 {
		t.Errorf("shown as %q", got)
	}
}
