package fetchertest

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// StartRaw serves bytes, which need not be HTTP, on a free port of 127.0.0.1 until
// tb ends: answer is called with the method and target of each request, one for
// each connection, and what it returns is sent as it is. It returns the server's
// address, HOST:PORT.
func StartRaw(tb testing.TB, answer func(request string) string) string {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() { serveRaw(conn, answer) })
		}
	})
	tb.Cleanup(func() {
		if err := listener.Close(); err != nil {
			tb.Error(err)
		}
		served.Wait()
	})
	return listener.Addr().String()
}

func serveRaw(conn net.Conn, answer func(string) string) {
	defer func() { _ = conn.Close() }() // the client may have closed it
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte(answer(req.Method + " " + req.RequestURI))) // a client that left hears nothing
}

// RawAnswer makes the bytes of an answer that ends with its connection. header has
// one line each.
func RawAnswer(status string, body string, header ...string) string {
	var lines strings.Builder
	for _, h := range header {
		lines.WriteString(h + "\r\n")
	}
	return "HTTP/1.1 " + status + "\r\nConnection: close\r\n" + lines.String() + "\r\n" + body
}

// BrokenAnswers are answers that no client can read and that repeat a secret where
// Go's net/http quotes what it cannot read.
func BrokenAnswers(secret string) map[string]string {
	return map[string]string{
		"no HTTP":                secret + "\r\n\r\n",
		"status line":            "HTTP/1.1 " + secret + "\r\n\r\n",
		"version":                "HTTP/" + secret + " 200 OK\r\n\r\n",
		"header without a colon": "HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n",
		"header with a space":    "HTTP/1.1 200 OK\r\nX " + secret + ": x\r\n\r\n",
		"header's control bytes": "HTTP/1.1 200 OK\r\nX: " + secret + "\x00\r\n\r\n",
		"length":                 RawAnswer("200 OK", "", "Content-Length: "+secret),
		"two lengths":            RawAnswer("200 OK", "", "Content-Length: 1", "Content-Length: "+secret),
		"transfer encoding":      RawAnswer("200 OK", "", "Transfer-Encoding: "+secret),
		"two encodings":          RawAnswer("200 OK", "", "Transfer-Encoding: chunked", "Transfer-Encoding: "+secret),
		"chunk":                  RawAnswer("200 OK", secret+"\r\n", "Transfer-Encoding: chunked"),
		"chunk extension":        RawAnswer("200 OK", "5;"+secret+"\r\nab", "Transfer-Encoding: chunked"),
		"trailer":                RawAnswer("200 OK", "2\r\n[]\r\n0\r\n"+secret+"\r\n\r\n", "Transfer-Encoding: chunked"),
		"content encoding":       RawAnswer("200 OK", "[]", "Content-Encoding: "+secret),
		"location":               RawAnswer("302 Found", "", "Location: http://["+secret+"/"),
		"location with a user":   RawAnswer("302 Found", "", "Location: http://"+secret+"@127.0.0.1:1/"),
		"location's scheme":      RawAnswer("302 Found", "", "Location: "+secret+"://127.0.0.1:1/"),
		"location's host":        RawAnswer("302 Found", "", "Location: http://"+secret+".invalid:1/"),
		"location's port":        RawAnswer("302 Found", "", "Location: http://127.0.0.1:"+secret+"/"),
		"location's escapes":     RawAnswer("302 Found", "", "Location: http://127.0.0.1:1/%zz"+secret),
		"no JSON":                RawAnswer("200 OK", secret),
		"JSON of another kind":   RawAnswer("200 OK", `{"`+secret+`":"`+secret+`","sha":1,"items":"`+secret+`"}`),
		"JSON number":            RawAnswer("200 OK", `{"items":[{"name":"a","size":"`+secret+`"}]}`),
		"JSON list":              RawAnswer("200 OK", `[{"type":"file","path":"a","size":"`+secret+`"}]`),
		"XML":                    RawAnswer("200 OK", "<"+secret+"><&"+secret+";>"),
		"XML of another kind":    RawAnswer("200 OK", "<ListBucketResult><IsTruncated>"+secret+"</IsTruncated></ListBucketResult>"),
		"XML number":             RawAnswer("200 OK", "<ListBucketResult><Contents><Key>a</Key><Size>"+secret+"</Size></Contents></ListBucketResult>"),
		"XML time":               RawAnswer("200 OK", "<ListBucketResult><Contents><Key>a</Key><LastModified>"+secret+"</LastModified></Contents></ListBucketResult>"),
		"error of no kind":       RawAnswer("500 "+secret, "<Error><Code>"+secret+" </Code><RequestId>"+secret+"!</RequestId></Error>", "X-Request-Id: "+secret+"!", "X-Error-Code: "+secret+"!", "X-Amz-Request-Id: "+secret+"!"),
		"range":                  RawAnswer("206 Partial Content", "{}", "Content-Range: "+secret, "Content-Length: 2", `ETag: "`+secret+`"`, "X-Repo-Commit: "+secret),
		"etag":                   RawAnswer("206 Partial Content", "{}", "Content-Range: bytes 0-1/2", "Content-Length: 2", `ETag: "`+secret+`"`),
		"commit":                 RawAnswer("206 Partial Content", "{}", "Content-Range: bytes 0-1/2", "Content-Length: 2", "X-Repo-Commit: "+secret),
	}
}

// NoLookups has every name that is not in /etc/hosts fail until tb ends, without
// asking anybody: hostile redirects name whatever they like.
func NoLookups(tb testing.TB) {
	tb.Helper()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("names are not looked up in tests")
	}}
	tb.Cleanup(func() { net.DefaultResolver = before })
}
