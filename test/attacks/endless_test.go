package attacks_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// attack is one way in which a server of a source answers a pull.
type attack struct {
	source, name string
	// answer writes what the nth request gets, from 1.
	answer func(w io.Writer, n int, r *http.Request)
	// code is the exit code, says a part of the message.
	code int
	says string
	// credentials is the path that gives AWS credentials; empty: there are some.
	credentials string
}

const (
	hub = "hf://acme/llama"
	s3  = "s3://bucket/llama"
	gcs = "gs://bucket/llama"

	xmlHead  = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n<ListBucketResult>"
	jsonHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
)

// attacks is every way that is tried.
func attacks() []attack {
	all := []attack{
		{s3, "endless key", endless(xmlHead+"<Contents><Key>", "llama/"), 3, "more than 8 MiB", ""},
		{s3, "endless token", endless(xmlHead+"<IsTruncated>true</IsTruncated><NextContinuationToken>", "t"), 3, "more than 8 MiB", ""},
		{s3, "endless entries", endless(xmlHead, "<Contents/>"), 3, "more entries", ""},
		{s3, "endless attributes", endless(xmlHead+"<Contents ", `a="" `), 3, "more entries", ""},
		{s3, "endless depth", endless(xmlHead, "<a>"), 3, "more entries", ""},
		{s3, "the same token", text(xmlHead + "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"), 3, "never end", ""},
		{s3, "two tokens in turn", func(w io.Writer, n int, _ *http.Request) {
			_, _ = fmt.Fprintf(w, "%s<IsTruncated>true</IsTruncated><NextContinuationToken>t%d</NextContinuationToken></ListBucketResult>", xmlHead, n%2)
		}, 3, "never end", ""},
		{s3, "ever new tokens", func(w io.Writer, n int, _ *http.Request) {
			_, _ = fmt.Fprintf(w, "%s<IsTruncated>true</IsTruncated><NextContinuationToken>t%d</NextContinuationToken></ListBucketResult>", xmlHead, n)
		}, 3, "never end", ""},
		{s3, "ever new files", func(w io.Writer, n int, _ *http.Request) {
			var b strings.Builder
			for i := range 1000 {
				_, _ = fmt.Fprintf(&b, "<Contents><Key>llama/%0900d</Key><Size>1</Size><ETag>\"e\"</ETag></Contents>", n*1000+i)
			}
			_, _ = fmt.Fprintf(w, "%s<IsTruncated>true</IsTruncated><NextContinuationToken>t%d</NextContinuationToken>%s</ListBucketResult>", xmlHead, n, &b)
		}, 3, "this is no model", ""},
		{s3, "endless credentials", onlyCredentials(endless(jsonHead+`{"AccessKeyId":"`, "x")), 3, "more than 1 MiB", "/credentials"},
		{s3, "endless refusal of credentials", onlyCredentials(endless("HTTP/1.1 403 Forbidden\r\n\r\n"+`{"message":"`, "x")), 3, "AWS credentials", "/credentials"},
		{s3, "a size of millions of digits", digits(xmlHead+"<Contents><Key>llama/a</Key><Size>", "</Size></Contents></ListBucketResult>"), 4, "a size that no object has", ""},
		{gcs, "a size of millions of digits", digits(jsonHead+`{"items":[{"size":`, "}]}"), 4, "such as a size", ""},
		{hub, "a size of thousands of digits", hubTree(digits(jsonHead+`[{"size":`, "}]")), 4, "a size that no file has", ""},
		{gcs, "endless name", endless(jsonHead+`{"items":[{"name":"`, "llama/"), 3, "more than 8 MiB", ""},
		{gcs, "endless token", endless(jsonHead+`{"nextPageToken":"`, "t"), 3, "more than 8 MiB", ""},
		{gcs, "endless entries", endless(jsonHead+`{"items":[{}`, ",{}"), 3, "more entries", ""},
		{gcs, "endless prefixes", endless(jsonHead+`{"prefixes":[""`, `,""`), 3, "more entries", ""},
		{gcs, "endless depth", endless(jsonHead+`{"items":`, "["), 3, "more entries", ""},
		{gcs, "the same token", text(jsonHead + `{"nextPageToken":"t"}`), 3, "never end", ""},
		{gcs, "two tokens in turn", func(w io.Writer, n int, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `%s{"nextPageToken":"t%d"}`, jsonHead, n%2)
		}, 3, "never end", ""},
		{gcs, "ever new tokens", func(w io.Writer, n int, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `%s{"nextPageToken":"t%d"}`, jsonHead, n)
		}, 3, "never end", ""},
		{gcs, "ever new files", func(w io.Writer, n int, _ *http.Request) {
			var b strings.Builder
			for i := range 1000 {
				_, _ = fmt.Fprintf(&b, `,{"name":"llama/%0900d","size":"1","generation":"1"}`, n*1000+i)
			}
			_, _ = fmt.Fprintf(w, `%s{"nextPageToken":"t%d","items":[%s]}`, jsonHead, n, b.String()[1:])
		}, 3, "this is no model", ""},
		{hub, "endless revision", endless(jsonHead+`{"sha":"`, "a"), 3, "more than 8192 KiB", ""},
		{hub, "endless spaces", endless(jsonHead, " "), 3, "more than", ""},
		{hub, "endless name", hubTree(endless(jsonHead+`[{"type":"file","path":"`, "x")), 3, "more than 64 KiB", ""},
		{hub, "endless empty entries", hubTree(endless(jsonHead+"[{}", ",{}")), 3, "is of no type", ""},
		{hub, "endless folders", hubTree(endless(jsonHead+`[{"type":"directory"}`, `,{"type":"directory"}`)), 3, "more than 200000 entries", ""},
		{hub, "page of 32 MiB of folders", hubTree(func(w io.Writer, _ int, _ *http.Request) {
			_, err := io.WriteString(w, jsonHead+"[{\"type\":\"directory\"}")
			for many, n := strings.Repeat(`,{"type":"directory"}`, 1<<10), 0; n < 32<<20-2*len(many) && err == nil; n += len(many) {
				_, err = io.WriteString(w, many)
			}
			_, _ = io.WriteString(w, "]")
		}), 3, "more than 200000 entries", ""},
		{hub, "endless depth", hubTree(once(endless(jsonHead, "["))), 3, "answered 403", ""},
		{hub, "endless files", hubTree(func(w io.Writer, _ int, _ *http.Request) {
			_, _ = io.WriteString(w, jsonHead+"[")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(w, `{"type":"file","path":"%0300d","size":1,"oid":"%040x"},`, i, i); err != nil {
					return
				}
			}
		}), 3, "more than", ""},
		{hub, "the same link", hubTree(func(w io.Writer, _ int, r *http.Request) { linked(w, r, r.URL.RequestURI()) }), 3, "never end", ""},
		{hub, "two links in turn", hubTree(func(w io.Writer, n int, r *http.Request) {
			linked(w, r, fmt.Sprintf("%s?cursor=%d", r.URL.Path, n%2))
		}), 3, "never end", ""},
		{hub, "ever new links", hubTree(func(w io.Writer, n int, r *http.Request) {
			linked(w, r, fmt.Sprintf("%s?cursor=%d", r.URL.Path, n))
		}), 3, "never end", ""},
	}
	for _, source := range []string{s3, gcs, hub} {
		all = append(all,
			attack{source, "endless failure", endless("HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n\r\n<Error><Code>", "x"), 3, "answered 403", ""},
			attack{source, "endless failure in JSON", endless("HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n"+`{"error":{"message":"`, "x"), 3, "answered 403", ""},
			attack{source, "endless redirect", once(endless("HTTP/1.1 301 Moved\r\n\r\n", "x")), 3, "answered", ""},
			attack{source, "endless headers", once(endless("HTTP/1.1 200 OK\r\n", "X-A: b\r\n")), 3, "answered 403", ""},
			attack{source, "endless status line", once(endless("HTTP/1.1 200 ", "x")), 3, "answered 403", ""},
			attack{source, "endless early hints", once(endless("", "HTTP/1.1 103 Early Hints\r\n\r\n")), 3, "answered 403", ""},
		)
	}
	return all
}

// onlyCredentials answers those who ask for credentials: nothing else is asked for.
func onlyCredentials(answer func(io.Writer, int, *http.Request)) func(io.Writer, int, *http.Request) {
	return func(w io.Writer, n int, r *http.Request) {
		if r.URL.Path == "/credentials" {
			answer(w, n, r)
		}
	}
}

// digits writes a number of many digits, as many as an answer may have, between head
// and tail.
func digits(head, tail string) func(io.Writer, int, *http.Request) {
	return func(w io.Writer, _ int, r *http.Request) {
		n := 8<<20 - 1024
		if strings.Contains(r.URL.Path, "/tree/") { // an entry of which has less
			n = 60 << 10
		}
		_, _ = io.WriteString(w, head+strings.Repeat("9", n)+tail)
	}
}

// endless writes head, and then unit until the client has gone.
func endless(head, unit string) func(io.Writer, int, *http.Request) {
	many := bytes.Repeat([]byte(unit), 1+(64<<10)/len(unit))
	return func(w io.Writer, _ int, _ *http.Request) {
		_, err := io.WriteString(w, head)
		for err == nil {
			_, err = w.Write(many)
		}
	}
}

// once answers the first request for a list, which is tried again, and refuses those
// behind it.
func once(answer func(io.Writer, int, *http.Request)) func(io.Writer, int, *http.Request) {
	var begun atomic.Bool
	return func(w io.Writer, n int, r *http.Request) {
		if begun.Swap(true) {
			_, _ = io.WriteString(w, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n")
			return
		}
		answer(w, n, r)
	}
}

func text(s string) func(io.Writer, int, *http.Request) {
	return func(w io.Writer, _ int, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

// hubTree answers the lookup of a revision as a Hub does, and all else by answer.
func hubTree(answer func(io.Writer, int, *http.Request)) func(io.Writer, int, *http.Request) {
	return func(w io.Writer, n int, r *http.Request) {
		if strings.Contains(r.URL.Path, "/revision/") {
			_, _ = io.WriteString(w, jsonHead+`{"sha":"`+strings.Repeat("a", 40)+`"}`)
			return
		}
		answer(w, n, r)
	}
}

func linked(w io.Writer, r *http.Request, next string) {
	_, _ = fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nConnection: close\r\nLink: <http://%s%s>; rel=\"next\"\r\n\r\n[]", r.Host, next)
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
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					answer(conn, n, r)
				}
			})
		}
	})
	return listener.Addr().String()
}

// Whatever a server sends instead of a list, a pull ends, within its memory.
func TestSourcesWithoutAnEnd(t *testing.T) {
	for _, a := range attacks() {
		t.Run(strings.ReplaceAll(a.source[:2]+" "+a.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			env := sourceAt("http://" + serve(t, a.answer))
			if a.credentials != "" {
				env = append(env, "AWS_ACCESS_KEY_ID=", "AWS_CONTAINER_CREDENTIALS_FULL_URI="+env[0][len("HF_ENDPOINT="):]+a.credentials)
			}
			newWorld(t).pull(t, a.source[:2]+": "+a.name, env, a.source).expect(t, a.code, a.says)
		})
	}
}

// sourceAt is the environment in which every source is at this URL.
func sourceAt(url string) []string {
	return []string{
		"HF_ENDPOINT=" + url, "STORAGE_EMULATOR_HOST=" + url, "AWS_ENDPOINT_URL=" + url,
		"AWS_ACCESS_KEY_ID=STOKERTESTACCESSKEY", "AWS_SECRET_ACCESS_KEY=secretSECRETsecret",
	}
}

// An index of weights is read before anything is chosen, and again when all of it is
// there: by each command within its memory, and in a time that people wait.
func TestIndexesWithoutAnEnd(t *testing.T) {
	for _, c := range []struct {
		name, unit string
		size, fit  int
		says       string // by fit
	}{
		{"of ever other files", `,"%[1]d":"model-%[1]d.safetensors"`, 63 << 20, exitFailed, "more than 10000 files"},
		{"of ever other tensors", `,"model.layers.%d":"model.safetensors"`, 31 << 20, exitOK, ""},
	} {
		attack := fmt.Sprintf("file: an index %s, %d MiB", c.name, c.size>>20)
		t.Run(strings.ReplaceAll(attack, " ", "-"), func(t *testing.T) {
			t.Parallel()
			index := []byte(`{"weight_map":{"x":"model.safetensors"`)
			for i := 0; len(index) < c.size-2; i++ {
				index = fmt.Appendf(index, c.unit, i)
			}
			const weights = "\x02\x00\x00\x00\x00\x00\x00\x00{}"
			dir := t.TempDir()
			for file, content := range map[string][]byte{
				"config.json": []byte(`{"model_type":"llama"}`), "model.safetensors.index.json": append(index, "}}"...),
				"model.safetensors": []byte(weights), "more.safetensors": []byte(weights),
			} {
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w, source, start := newWorld(t), "file://"+dir, time.Now()
			w.pull(t, attack, nil, source).expect(t, exitOK, "")
			w.pull(t, attack, nil, source).expect(t, exitOK, "")
			w.attacked(t, attack, nil, "fit", source).expect(t, c.fit, c.says)
			if took := time.Since(start); took > time.Minute {
				t.Errorf("three commands took %s", took)
			}
		})
	}
}
