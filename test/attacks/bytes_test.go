package attacks_test

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// weights are what every attacked source has as model.safetensors, beside a config.json.
var weights = func() []byte {
	b := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

// part is a range of the weights that was asked for, and what a server that is right
// says of it.
type part struct {
	from, to int // the latter exclusive
	etag     string
	commit   string
}

// answer is a server's: the status, headers that replace those that are right, or are
// left out if empty, and the body.
type answer struct {
	status string
	header map[string]string
	body   io.Reader
}

// right is the answer that is.
func (p part) right() answer {
	sum := make([]byte, 4)
	binary.BigEndian.PutUint32(sum, crc32.Checksum(weights, crc32.MakeTable(crc32.Castagnoli)))
	return answer{"206 Partial Content", map[string]string{
		"Content-Length": fmt.Sprint(p.to - p.from), "Content-Range": fmt.Sprintf("bytes %d-%d/%d", p.from, p.to-1, len(weights)), "ETag": p.etag,
		"X-Repo-Commit": p.commit, "X-Goog-Generation": "1", "X-Goog-Hash": "crc32c=" + base64.StdEncoding.EncodeToString(sum),
	}, bytes.NewReader(weights[p.from:p.to])}
}

// but is the answer with other headers.
func (a answer) but(header ...string) answer {
	for i := 0; i < len(header); i += 2 {
		a.header[header[i]] = header[i+1]
	}
	return a
}

// of is the answer with another body.
func (a answer) of(body io.Reader) answer {
	a.body = body
	return a
}

func (a answer) write(w io.Writer) {
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + a.status + "\r\nConnection: close\r\n")
	for name, value := range a.header {
		if value != "" {
			b.WriteString(name + ": " + value + "\r\n")
		}
	}
	_, _ = io.WriteString(w, b.String()+"\r\n")
	_, _ = io.Copy(w, a.body)
}

// bomb is a gzip of zeros without an end.
func bomb() io.Reader {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = io.CopyN(z, zeros{}, 4<<20)
	}
	if err == nil {
		err = z.Flush()
	}
	if err != nil {
		panic(err)
	}
	head, unit := bytes.Clone(b.Bytes()), b.Len()
	if _, err = io.CopyN(z, zeros{}, 4<<20); err == nil {
		err = z.Flush()
	}
	if err != nil {
		panic(err)
	}
	return io.MultiReader(bytes.NewReader(head), &repeated{of: b.Bytes()[unit:]})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// repeated is the same again and again.
type repeated struct {
	of []byte
	at int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.of[r.at:])
	r.at = (r.at + n) % len(r.of)
	return n, nil
}

// serveModel serves a model as each source does. What is asked for the weights, from the
// first time on, is answered by attack; nil of it is the right answer. list answers
// what lists the model; nil is the right one.
func serveModel(t *testing.T, source string, attack func(p part, n int) *answer, list func(right string) answer) string {
	t.Helper()
	etag := md5.Sum(weights)
	sum, blob := sha256.Sum256(weights), sha1.Sum([]byte("blob 2\x00{}"))
	p := part{etag: `"` + hex.EncodeToString(etag[:]) + `"`, commit: strings.Repeat("a", 40)}
	lists := map[string]string{
		hub: fmt.Sprintf(`[{"type":"file","path":"config.json","size":2,"oid":"%x"},{"type":"file","path":"model.safetensors","size":%d,"oid":"%040d","lfs":{"oid":"%x","size":%d}}]`,
			blob, len(weights), 1, sum, len(weights)),
		s3: fmt.Sprintf(`<ListBucketResult><Contents><Key>llama/config.json</Key><ETag>"99914b932bd37a50b983c5e7c90ae93b"</ETag><Size>2</Size></Contents>`+
			`<Contents><Key>llama/model.safetensors</Key><ETag>%s</ETag><Size>%d</Size></Contents></ListBucketResult>`, strings.ReplaceAll(p.etag, `"`, "&quot;"), len(weights)),
		gcs: fmt.Sprintf(`{"items":[{"name":"llama/config.json","bucket":"bucket","generation":"1","size":"2","crc32c":"KXvQqg=="},`+
			`{"name":"llama/model.safetensors","bucket":"bucket","generation":"1","size":"%d","%s"}]}`, len(weights), `md5Hash":"`+base64.StdEncoding.EncodeToString(etag[:])),
	}
	if source == hub {
		p.etag = `"` + hex.EncodeToString(sum[:]) + `"`
	}
	var asked atomic.Int32
	return serve(t, func(w io.Writer, _ int, r *http.Request) {
		target := r.URL.Path + "?" + r.URL.RawQuery
		switch {
		case strings.Contains(target, "config.json"):
			tag := `"9e26dfeeb6e641a33dae4961196235bdb965b21b"`
			if source == s3 {
				tag = `"99914b932bd37a50b983c5e7c90ae93b"`
			}
			a := p.right().but("Content-Length", "2", "Content-Range", "bytes 0-1/2", "ETag", tag, "X-Goog-Hash", "crc32c=KXvQqg==").of(strings.NewReader("{}"))
			if r.Method == http.MethodHead {
				a = a.but("Content-Range", "").of(strings.NewReader(""))
				a.status = "200 OK"
			}
			a.write(w)
		case r.Method == http.MethodHead:
			answer{"200 OK", map[string]string{"Content-Length": fmt.Sprint(len(weights)), "ETag": p.etag}, strings.NewReader("")}.write(w)
		case strings.Contains(target, "model.safetensors"):
			p := p
			p.to = len(weights)
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &p.from, &p.to); err == nil {
				p.to++
			}
			a := p.right()
			if attack != nil {
				if other := attack(p, int(asked.Add(1))); other != nil {
					a = *other
				}
			}
			a.write(w)
		case strings.Contains(target, "/revision/"):
			text(jsonHead+`{"sha":"`+p.commit+`"}`)(w, 0, r)
		default:
			a := answer{"200 OK", map[string]string{"Content-Length": fmt.Sprint(len(lists[source]))}, strings.NewReader(lists[source])}
			if list != nil {
				a = list(lists[source])
			}
			a.write(w)
		}
	})
}

// published compares the weights that a store has with the right ones.
func (w world) published(t *testing.T) bool {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(w.store, "models/llama/*/model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		got, err := os.ReadFile(link)
		if err != nil || !bytes.Equal(got, weights) {
			t.Errorf("%d other bytes are published: %v", len(got), err)
		}
	}
	return len(links) > 0
}

// always answers every request so, first only the first one, and second the first one by
// half of what was asked for and those behind it so.
func always(change func(p part) answer) func(part, int) *answer {
	return func(p part, _ int) *answer {
		a := change(p)
		return &a
	}
}

func first(change func(p part) answer) func(part, int) *answer {
	return func(p part, n int) *answer {
		if n > 1 {
			return nil
		}
		a := change(p)
		return &a
	}
}

func second(change func(p part) answer) func(part, int) *answer {
	return func(p part, n int) *answer {
		a := change(p)
		switch n {
		case 1:
			a = p.right().of(bytes.NewReader(weights[p.from : p.from+(p.to-p.from)/2]))
		case 2:
		default:
			return nil
		}
		return &a
	}
}

// Whatever a server answers for the bytes of a file, they are published right or not at
// all.
func TestBytes(t *testing.T) {
	header := func(pairs ...string) func(part) answer {
		return func(p part) answer { return p.right().but(pairs...) }
	}
	spans := func(format string) func(part) answer {
		return func(p part) answer { return p.right().but("Content-Range", fmt.Sprintf(format, p.from, p.to-1)) }
	}
	for _, a := range []struct {
		name   string
		attack func(part, int) *answer
		codes  [3]int // of the sources in their order; the attack is over by then where it is 0
	}{
		{"gzip that is none", first(header("Content-Encoding", "gzip")), [3]int{}},
		{"gzip bomb", first(func(p part) answer { return p.right().but("Content-Encoding", "gzip").of(bomb()) }), [3]int{}},
		{"gzip bomb without a length", first(func(p part) answer {
			return p.right().but("Content-Encoding", "gzip", "Content-Length", "", "Content-Range", "").of(bomb())
		}), [3]int{exitRefused, exitRefused, exitRefused}},
		{"no ETag", first(header("ETag", "", "X-Repo-Commit", "", "X-Goog-Generation", "", "X-Goog-Hash", "")), [3]int{exitOK, exitRefused, exitOK}},
		{"another ETag, after a part", second(header("ETag", `"`+strings.Repeat("b", 64)+`"`, "X-Goog-Generation", "2")), [3]int{exitOK, exitRefused, exitOK}},
		{"another digest, after a part", second(header("X-Linked-Etag", `"`+strings.Repeat("b", 64)+`"`)), [3]int{exitCorrupt, exitOK, exitOK}},
		{"an ETag of 60 KiB", first(header("ETag", `"`+strings.Repeat("e", 60<<10)+`"`)), [3]int{exitOK, exitRefused, exitOK}},
		{"an ETag of 1 MiB", first(header("ETag", `"`+strings.Repeat("e", 1<<20)+`"`)), [3]int{}},
		{"an ETag of control characters", first(header("ETag", "\"\x1b[2J\x00\x07\"")), [3]int{}},
		{"another offset", first(func(p part) answer {
			return p.right().but("Content-Range", fmt.Sprintf("bytes %d-%d/%d", p.from+1, p.to, len(weights)))
		}), [3]int{}},
		{"another size", first(spans("bytes %d-%d/99999999")), [3]int{}},
		{"no offset", first(header("Content-Range", "bytes */3145728")), [3]int{}},
		{"no range", first(header("Content-Range", "")), [3]int{}},
		{"endless numbers in the range", first(header("Content-Range", "bytes 0-"+strings.Repeat("9", 10_000)+"/"+strings.Repeat("9", 10_000))), [3]int{}},
		{"negative range", first(header("Content-Range", "bytes -5--1/-1")), [3]int{}},
		{"range in other units", first(spans("items %d-%d/3145728")), [3]int{exitRefused, exitRefused, exitOK}},
		{"more bytes than said", first(func(p part) answer { return p.right().of(io.MultiReader(p.right().body, zeros{})) }), [3]int{}},
		{"bytes without an end", first(func(p part) answer {
			return p.right().but("Content-Length", "").of(io.MultiReader(p.right().body, zeros{}))
		}), [3]int{}},
		{"other bytes without an end", always(func(p part) answer { return p.right().but("Content-Length", "").of(zeros{}) }), [3]int{exitCorrupt, exitCorrupt, exitCorrupt}},
		{"a longer length", first(header("Content-Length", "999999999999")), [3]int{}},
		{"a length of thousands of digits", first(header("Content-Length", strings.Repeat("9", 5000))), [3]int{}},
		{"fewer bytes", second(header("Content-Length", "10")), [3]int{}},
		{"no bytes", second(func(p part) answer { return p.right().of(strings.NewReader("")) }), [3]int{}},
		{"the whole file for its middle", second(func(p part) answer {
			a := p.right().but("Content-Range", "", "Content-Length", fmt.Sprint(len(weights))).of(bytes.NewReader(weights))
			a.status = "200 OK"
			return a
		}), [3]int{}},
		{"the front for its middle", second(func(p part) answer {
			a := p.right().but("Content-Range", "").of(bytes.NewReader(weights[:p.to-p.from]))
			a.status = "200 OK"
			return a
		}), [3]int{}},
		{"the front as its middle", second(func(p part) answer { return p.right().of(bytes.NewReader(weights[:p.to-p.from])) }), [3]int{}},
		{"other bytes", always(func(p part) answer { return p.right().of(io.LimitReader(zeros{}, int64(p.to-p.from))) }), [3]int{exitCorrupt, exitCorrupt, exitCorrupt}},
		{"one other byte", always(func(p part) answer {
			other := bytes.Clone(weights[p.from:p.to])
			other[len(other)-1] ^= 1
			return p.right().of(bytes.NewReader(other))
		}), [3]int{exitCorrupt, exitCorrupt, exitCorrupt}},
		{"several ranges", first(func(p part) answer {
			return p.right().but("Content-Range", "", "Content-Type", "multipart/byteranges; boundary=b", "Content-Length", "").
				of(strings.NewReader("--b\r\nContent-Range: bytes 0-1/2\r\n\r\n{}\r\n--b--\r\n"))
		}), [3]int{}},
		{"chunks that never begin", first(func(p part) answer {
			return p.right().but("Content-Length", "", "Transfer-Encoding", "chunked").of(io.MultiReader(strings.NewReader("1;"), &repeated{of: []byte("x")}))
		}), [3]int{}},
		{"trailers without an end", first(func(p part) answer {
			return p.right().but("Content-Length", "", "Transfer-Encoding", "chunked", "Trailer", "X").of(io.MultiReader(
				strings.NewReader(fmt.Sprintf("%x\r\n", p.to-p.from)), p.right().body, strings.NewReader("\r\n0\r\n"), &repeated{of: []byte("X: y\r\n")}))
		}), [3]int{}},
		{"nothing and 204", first(func(part) answer { return answer{"204 No Content", nil, strings.NewReader("")} }), [3]int{}},
		{"304", first(func(part) answer { return answer{"304 Not Modified", nil, strings.NewReader("")} }), [3]int{exitRefused, exitRefused, exitRefused}},
	} {
		for i, source := range []string{hub, s3, gcs} {
			t.Run(strings.ReplaceAll(source[:2]+" "+a.name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				o := w.pull(t, source[:2]+": bytes: "+a.name, sourceAt("http://"+serveModel(t, source, a.attack, nil)), source)
				o.expect(t, a.codes[i], "")
				if w.published(t) != (o.code == exitOK) {
					t.Errorf("exit code %d, published: %v", o.code, o.code != exitOK)
				}
			})
		}
	}
}

// A list that is compressed, though nobody asked for that, takes no memory. The next one
// is right.
func TestCompressedLists(t *testing.T) {
	for name, body := range map[string]func(right string) io.Reader{
		"gzip bomb": func(string) io.Reader { return bomb() },
		"gzip": func(right string) io.Reader {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = io.WriteString(z, right)
			_ = z.Close()
			return &b
		},
	} {
		for _, source := range []string{hub, s3, gcs} {
			t.Run(strings.ReplaceAll(source[:2]+" "+name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				var begun atomic.Bool
				w, list := newWorld(t), func(right string) answer {
					if begun.Swap(true) {
						return answer{"200 OK", nil, strings.NewReader(right)}
					}
					return answer{"200 OK", map[string]string{"Content-Encoding": "gzip"}, body(right)}
				}
				o := w.pull(t, source[:2]+": list: "+name, sourceAt("http://"+serveModel(t, source, nil, list)), source)
				if w.published(t) != (o.code == exitOK) || o.code != exitOK && o.code != exitRefused {
					t.Errorf("exit code %d, published: %v: %s", o.code, o.code != exitOK, o.output)
				}
			})
		}
	}
}
