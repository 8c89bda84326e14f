package httpsource_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// server is a transport that answers after headers, with a status and a body.
type server struct {
	headers time.Duration
	status  int
	body    func(ctx context.Context) io.Reader
}

// RoundTrip implements http.RoundTripper.
func (s server) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := rest(req.Context(), s.headers); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: s.status, Header: http.Header{}, Body: io.NopCloser(s.body(req.Context())), Request: req}, nil
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// drip sends size bytes at a time, without an end, and waits before each.
type drip struct {
	ctx  context.Context //nolint:containedctx // the request's
	wait time.Duration
	size int
}

// Read implements io.Reader.
func (d drip) Read(p []byte) (int, error) {
	if err := rest(d.ctx, d.wait); err != nil {
		return 0, err
	}
	n := min(d.size, len(p))
	return copy(p, bytes.Repeat([]byte("x"), n)), nil
}

func dripping(wait time.Duration, size int) func(context.Context) io.Reader {
	return func(ctx context.Context) io.Reader { return drip{ctx, wait, size} }
}

func ask(t *testing.T, rt http.RoundTripper, object bool) (*http.Response, error) {
	t.Helper()
	ctx := t.Context()
	if object {
		ctx = httpsource.ForObject(ctx, 1<<40, 1<<40)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://source.test/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	return rt.RoundTrip(req)
}

// What a source may take of time.
func TestBoundsInTime(t *testing.T) {
	for name, c := range map[string]struct {
		server server
		object bool
		want   time.Duration
		says   string
		slow   bool
	}{
		"no headers":                  {server{headers: time.Hour}, true, 30 * time.Second, "sent no headers within 30s", false},
		"object that is silent":       {server{status: 206, body: dripping(time.Hour, 1)}, true, time.Minute, "sent no byte for 1m0s", false},
		"object by the byte":          {server{status: 206, body: dripping(20*time.Second, 1)}, true, 2 * time.Minute, "sent 6 bytes in 2m0s", true},
		"object below the least rate": {server{status: 200, body: dripping(time.Second, 10<<10-1)}, true, 2 * time.Minute, "too slow", true},
		"list by the byte":            {server{status: 200, body: dripping(20*time.Second, 1)}, false, time.Minute, "did not end its answer within 1m0s", false},
		"failure by the byte":         {server{status: 500, body: dripping(20*time.Second, 1)}, true, time.Minute, "did not end its answer", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				resp, err := ask(t, httpsource.Bounds{}.Transport(c.server, httpsource.AnyShape), c.object)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				op := httpsource.Operation{Verb: "read", Origin: "x"}
				failed := op.Exceeded(err)
				if failed == nil || !errors.Is(failed, fetcher.ErrTransient) || !strings.Contains(failed.Error(), c.says) {
					t.Errorf("error is %v, want that it %s", err, c.says)
				}
				if errors.Is(err, fetcher.ErrSlow) != c.slow {
					t.Errorf("slow is %v: %v", !c.slow, err)
				}
				if took := time.Since(start); took != c.want {
					t.Errorf("it took %s, want %s", took, c.want)
				}
			})
		})
	}
}

// What is slow because of us, or good enough, is read for as long as it takes.
func TestBoundsLetPass(t *testing.T) {
	read := func(t *testing.T, body io.Reader, pause time.Duration) {
		t.Helper()
		buf := make([]byte, 64<<10)
		for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(pause) {
			if _, err := body.Read(buf); err != nil {
				t.Errorf("after %s: %v", time.Until(end), err)
				return
			}
		}
	}
	t.Run("at the least rate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			resp, err := ask(t, httpsource.Bounds{}.Transport(server{status: 206, body: dripping(time.Second, 10<<10)}, httpsource.AnyShape), true)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			read(t, resp.Body, 0)
		})
	})
	t.Run("below a limit of our own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			resp, err := ask(t, httpsource.Bounds{}.Transport(server{status: 206, body: dripping(0, 100)}, httpsource.AnyShape), true)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			read(t, resp.Body, 90*time.Second)
		})
	})
	t.Run("four that share a slow link", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rt := httpsource.Bounds{}.Transport(server{status: 206, body: dripping(time.Second, 3<<10)}, httpsource.AnyShape)
			var bodies []io.ReadCloser
			for range 4 {
				resp, err := ask(t, rt, true)
				if err != nil {
					t.Fatal(err)
				}
				bodies = append(bodies, resp.Body)
			}
			read(t, bodies[0], 0)
			for _, b := range bodies[1:] {
				_ = b.Close()
				_ = b.Close() // which counts once
			}
			if _, err := io.Copy(io.Discard, bodies[0]); !errors.Is(err, fetcher.ErrSlow) {
				t.Errorf("left alone, it ends with %v", err)
			}
			_ = bodies[0].Close()
		})
	})
	t.Run("headers for which an entry waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			bounds := httpsource.Bounds{}.For(fetcher.Access{HeaderTimeout: 5 * time.Minute})
			resp, err := ask(t, bounds.Transport(server{headers: 4 * time.Minute, status: 200, body: func(context.Context) io.Reader { return strings.NewReader("[]") }}, httpsource.AnyShape), false)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "[]" {
				t.Errorf("read %q, %v", text, err)
			}
		})
	})
}

// What a source may take of memory.
func TestBoundsInSize(t *testing.T) {
	repeat := func(head, unit string, times int) func(context.Context) io.Reader {
		return func(context.Context) io.Reader { return strings.NewReader(head + strings.Repeat(unit, times)) }
	}
	for name, c := range map[string]struct {
		server server
		shape  httpsource.Shape
		object bool
		size   int // of what is read without an error; 0: refused
	}{
		"object":                 {server{status: 206, body: repeat("", "x", 20<<20)}, httpsource.XMLPage, true, 20 << 20},
		"list":                   {server{status: 200, body: repeat("", "x", 20<<20)}, httpsource.AnyShape, false, 0},
		"list of the right size": {server{status: 200, body: repeat("", "x", 8<<20)}, httpsource.AnyShape, false, 8 << 20},
		"failure":                {server{status: 403, body: repeat("", "x", 20<<20)}, httpsource.AnyShape, false, 64 << 10},
		"failure of an object":   {server{status: 500, body: repeat("", "x", 20<<20)}, httpsource.AnyShape, true, 64 << 10},
		"answer of no kind":      {server{status: 204, body: repeat("", "x", 20<<20)}, httpsource.AnyShape, true, 64 << 10},
		"tags":                   {server{status: 200, body: repeat("<L>", "<Contents/>", 300_000)}, httpsource.XMLPage, false, 0},
		"attributes":             {server{status: 200, body: repeat("<L ", `a="" `, 2000)}, httpsource.XMLPage, false, 0},
		"XML of 5000 objects":    {server{status: 200, body: repeat("<L>", "<C><Key>a</Key><ETag>b</ETag></C>", 5000)}, httpsource.XMLPage, false, 3 + 5000*33},
		"objects":                {server{status: 200, body: repeat("[", "{},", 21_000)}, httpsource.JSONPage, false, 0},
		"values":                 {server{status: 200, body: repeat("[", `"",`, 201_000)}, httpsource.JSONPage, false, 0},
		"brackets in strings":    {server{status: 200, body: repeat(`["`, `{[,\"`, 300_000)}, httpsource.JSONPage, false, 2 + 300_000*5},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := ask(t, httpsource.Bounds{}.Transport(c.server, c.shape), c.object)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if c.size > 0 {
				if err != nil || n != int64(c.size) {
					t.Errorf("read %d bytes and %v, want %d", n, err, c.size)
				}
				return
			}
			failed := httpsource.Operation{}.Exceeded(err)
			if failed == nil || !errors.Is(failed, fetcher.ErrRefused) {
				t.Errorf("read %d bytes and %v, want a refusal", n, err)
			}
			if again, _ := io.Copy(io.Discard, resp.Body); again > 0 {
				t.Errorf("read %d bytes behind the end", again)
			}
		})
	}
}

func TestListingEnds(t *testing.T) {
	op := httpsource.Operation{Verb: "list", Origin: "s3://bucket"}
	synctest.Test(t, func(t *testing.T) {
		endless := func(ctx context.Context) (fetcher.Listing, error) {
			<-ctx.Done()
			return fetcher.Listing{}, op.Ended(ctx, nil)
		}
		start := time.Now()
		_, err := httpsource.Bounds{}.OrDefaults().List(t.Context(), op, endless)
		if took := time.Since(start); took != 5*time.Minute || !errors.Is(err, fetcher.ErrTransient) || !strings.Contains(err.Error(), "within 5m0s") {
			t.Errorf("after %s: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := (httpsource.Bounds{}).OrDefaults().List(ctx, op, endless); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fetcher.ErrTransient) {
			t.Errorf("the caller's own end is %v", err)
		}
	})
}

func TestFiles(t *testing.T) {
	number := func(i int) string {
		return strings.Repeat("x", i%7) + string(rune('a'+i%26)) + time.Duration(i).String()
	}
	t.Run("too many files", func(t *testing.T) {
		var files httpsource.Files
		for i := range httpsource.MaxFiles {
			if err := files.Add(fetcher.File{Path: number(i) + "/" + time.Duration(i).String()}); err != nil {
				t.Fatal(i, err)
			}
		}
		if err := files.Add(fetcher.File{Path: "one more"}); !isRefused(err) || !strings.Contains(err.Error(), "100000 files") || len(files.All()) != httpsource.MaxFiles {
			t.Errorf("%d files, %v", len(files.All()), err)
		}
	})
	t.Run("too many folders", func(t *testing.T) {
		var files httpsource.Files
		var err error
		n := 0
		for ; err == nil; n++ {
			err = files.Skip()
		}
		if !isRefused(err) || n != 200_001 {
			t.Errorf("after %d: %v", n, err)
		}
	})
	t.Run("names without an end", func(t *testing.T) {
		var files httpsource.Files
		var err error
		n := 0
		for ; err == nil; n++ {
			err = files.Add(fetcher.File{Path: time.Duration(n).String(), Version: strings.Repeat("v", 1<<20)})
		}
		if !isRefused(err) || n != 32 {
			t.Errorf("after %d: %v", n, err)
		}
	})
	t.Run("a page twice", func(t *testing.T) {
		var files httpsource.Files
		for _, token := range []string{"", "a", "b"} {
			if err := files.Page(token); err != nil {
				t.Error(err)
			}
		}
		if err := files.Page("a"); !isRefused(err) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("pages without an end", func(t *testing.T) {
		var files httpsource.Files
		var err error
		n := 0
		for ; err == nil; n++ {
			err = files.Page(time.Duration(n).String())
		}
		if !isRefused(err) || n != 2001 {
			t.Errorf("after %d: %v", n, err)
		}
	})
	t.Run("a file twice", func(t *testing.T) {
		var files httpsource.Files
		err := errors.Join(files.Add(fetcher.File{Path: "a"}), files.Add(fetcher.File{Path: "a"}))
		if failed := (httpsource.Operation{}).Exceeded(err); failed == nil || !errors.Is(failed, fetcher.ErrCorrupt) {
			t.Errorf("error is %v", err)
		}
	})
}

func isRefused(err error) bool {
	failed := httpsource.Operation{}.Exceeded(err)
	return failed != nil && errors.Is(failed, fetcher.ErrRefused)
}
