package httpsource_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/gcs"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// Bounds that end within a test, one each: a busy machine must not meet another first.
var (
	quickHeader  = httpsource.Bounds{Header: 500 * time.Millisecond}
	quickSilence = httpsource.Bounds{Silence: 500 * time.Millisecond}
	quickAnswer  = httpsource.Bounds{Answer: 500 * time.Millisecond}
	quickListing = httpsource.Bounds{Listing: 500 * time.Millisecond}
	quickWindow  = httpsource.Bounds{Window: 500 * time.Millisecond}
)

// trickle writes head, and then a byte at a time until the client has gone.
func trickle(head string, every time.Duration) func(io.Writer, int, *http.Request) {
	return func(w io.Writer, _ int, r *http.Request) {
		_, err := io.WriteString(w, head)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for err == nil {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				_, err = io.WriteString(w, "x")
			}
		}
	}
}

// The sources that are slow.
const (
	hub    = "hf://acme/llama"
	bucket = "s3://bucket/llama"
	google = "gs://bucket/llama"
)

// The beginnings of answers.
const jsonHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"

const objectHead = "HTTP/1.1 206 Partial Content\r\nContent-Length: 100000\r\nContent-Range: bytes 0-99999/100000\r\n" +
	"ETag: \"e\"\r\nX-Goog-Generation: 1\r\nX-Repo-Commit: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n"

// driver makes a driver of a source at addr, with these bounds.
func driver(t *testing.T, source, addr string, bounds httpsource.Bounds) fetcher.Driver {
	t.Helper()
	var d interface {
		fetcher.Driver
		CloseIdleConnections()
	}
	var err error
	switch access := (fetcher.Access{Endpoint: "http://" + addr}); source {
	case hub:
		d, err = hf.New(hf.Options{Endpoint: access.Endpoint, Bounds: bounds})
	case bucket:
		none := filepath.Join(t.TempDir(), "none")
		for name, value := range map[string]string{
			"AWS_ACCESS_KEY_ID": "STOKERTESTACCESSKEY", "AWS_SECRET_ACCESS_KEY": "secretSECRETsecret", "AWS_PROFILE": "", "AWS_CONFIG_FILE": none,
			"AWS_SHARED_CREDENTIALS_FILE": none,
		} {
			t.Setenv(name, value)
		}
		d, err = s3.New(access, s3.Options{Bounds: bounds})
	default:
		t.Setenv("STORAGE_EMULATOR_HOST", addr)
		d, err = gcs.New(fetcher.Access{}, gcs.Options{Bounds: bounds})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	return d
}

// However slowly a server answers, a list and a transfer end, and say at which bound.
func TestSlowSources(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(io.Writer, int, *http.Request)
		bounds httpsource.Bounds
		object bool
		slow   bool
		says   string
	}{
		{"no headers for a list", trickle("", time.Hour), quickHeader, false, false, "sent no headers within 500ms"},
		{"headers of a list by the byte", trickle("HTTP/1.1 200 OK\r\nX-A: ", 50*time.Millisecond), quickHeader, false, false, "sent no headers within 500ms"},
		{"headers of a list and nothing else", trickle(jsonHead, time.Hour), quickSilence, false, false, "sent no byte for 500ms"},
		{"a list by the byte", trickle(jsonHead+`{"a":"`, 50*time.Millisecond), quickAnswer, false, false, "did not end its answer within 500ms"},
		{"a list that takes too long in all", trickle(jsonHead+`{"a":"`, 50*time.Millisecond), quickListing, false, false, "did not list all of its files within 500ms"},
		{"a failure by the byte", trickle("HTTP/1.1 503 Busy\r\n\r\n", 50*time.Millisecond), quickAnswer, false, false, ""},
		{"no headers for an object", trickle("", time.Hour), quickHeader, true, false, "sent no headers within 500ms"},
		{"headers of an object and nothing else", trickle(objectHead, time.Hour), quickSilence, true, false, "sent no byte for 500ms"},
		{"an object by the byte", trickle(objectHead, 50*time.Millisecond), quickWindow, true, true, "too slow"},
	} {
		for _, source := range []string{hub, bucket, google} {
			t.Run(source[:2]+"/"+strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
				d := driver(t, source, serve(t, c.answer), c.bounds)
				start := time.Now()
				err := use(t, d, source, c.object)
				took := time.Since(start)
				t.Logf("%.1f s: %v", took.Seconds(), err)
				if !errors.Is(err, fetcher.ErrTransient) && !errors.Is(err, fetcher.ErrThrottled) || errors.Is(err, fetcher.ErrSlow) != c.slow {
					t.Errorf("error is %v", err)
				}
				if err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("error does not say %q: %v", c.says, err)
				}
				if took > 25*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
}

// use lists a source, or reads an object of it.
func use(t *testing.T, d fetcher.Driver, source string, object bool) error {
	t.Helper()
	src, err := fetcher.ParseSource(source)
	if err != nil {
		t.Fatal(err)
	}
	if !object {
		_, err := d.List(t.Context(), src)
		return err
	}
	version := `"e"`
	if source == google {
		version = "1"
	}
	file := fetcher.File{Path: "model.safetensors", Size: 100_000, Version: version}
	body, err := d.Open(t.Context(), fetcher.Object{Source: src, Revision: strings.Repeat("a", 40), File: file}, 0, file.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

// serve answers each request on a connection of its own, and returns the address.
func serve(t *testing.T, answer func(io.Writer, int, *http.Request)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		group.Wait()
	})
	group.Go(func() {
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				from := bufio.NewReader(conn)
				r, err := http.ReadRequest(from)
				if err != nil {
					return
				}
				ctx, gone := context.WithCancel(context.Background())
				group.Go(func() {
					defer gone()
					_, _ = from.ReadByte() // there is none until the client has gone
				})
				answer(conn, n, r.WithContext(ctx))
			})
		}
	})
	return listener.Addr().String()
}
