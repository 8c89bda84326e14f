package httpsource

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
)

// decode takes off a compression that was not asked for: some caches compress small
// text for everybody. Of the compressed body, most bytes are read at most. What it
// cannot take off is an [Exceeded]; the next answer would have it again. Codings are
// those of RFC 9110, 8.4.1; deflate comes with zlib's frame and, from some servers,
// without.
func decode(resp *http.Response, host string, most int64) error {
	codings := codingsOf(resp.Header)
	if len(codings) == 0 {
		return nil
	}
	open := opener(codings[0])
	if len(codings) > 1 || open == nil {
		return encoded(host, codings, "")
	}
	if resp.StatusCode == http.StatusPartialContent {
		return encoded(host, codings, " to a part of the file")
	}
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length") // of what is compressed
	resp.ContentLength = -1
	resp.Body = &decoded{body: resp.Body, open: open, most: most, left: most, host: host}
	return nil
}

// decodeObject is decode for the answer to a request for an object, or for a part of
// one. An encoding that is the object's own, of which the listed size is, stays.
func decodeObject(resp *http.Response, host string, o object) error {
	if len(codingsOf(resp.Header)) == 0 || o.isOwn(resp) {
		return nil
	}
	err := decode(resp, host, maxEncoded(o.size))
	if e, ok := err.(*Exceeded); ok && resp.StatusCode == http.StatusPartialContent && o.length < o.size && opener(codingsOf(resp.Header)[0]) != nil { //nolint:errorlint // ours
		e.Kind, e.is = fetcher.ErrTransient, fetcher.ErrNoRanges // the whole of it can be decoded
	}
	if err == nil { // Google's client counts what comes against it, and so does Part
		resp.ContentLength = o.size
		resp.Header.Set("Content-Length", strconv.FormatInt(o.size, 10))
	}
	return err
}

// isOwn reports whether an answer has as many bytes of the object as were asked for,
// encoding or not.
func (o object) isOwn(resp *http.Response) bool {
	if resp.StatusCode == http.StatusOK {
		return resp.ContentLength == o.size
	}
	span := resp.Header.Get("Content-Range")
	return resp.ContentLength == o.length && (o.length == o.size || strings.HasSuffix(span, "/"+strconv.FormatInt(o.size, 10)))
}

// codingsOf returns the content codings of an answer, in lower case, less identity.
func codingsOf(header http.Header) []string {
	var codings []string
	for coding := range strings.SplitSeq(strings.Join(header.Values("Content-Encoding"), ","), ",") {
		if coding = strings.ToLower(strings.TrimSpace(coding)); coding != "" && coding != "identity" {
			codings = append(codings, coding)
		}
	}
	return codings
}

// encoded is an answer whose encoding cannot be taken off.
func encoded(host string, codings []string, what string) *Exceeded {
	names := make([]string, 0, len(codings))
	for _, coding := range codings[:min(len(codings), 4)] {
		if !slices.Contains(registered(), coding) {
			coding = "of another name" // it may be a credential that was sent before
		}
		names = append(names, coding)
	}
	return &Exceeded{
		Kind: fetcher.ErrRefused, Host: host, Reason: fmt.Sprintf("answers%s with the Content-Encoding %s, which was not asked for", what, strings.Join(names, ", ")),
		Hint: "switch compression off at " + host + ", or at the proxy before it",
	}
}

// registered are IANA's names of content codings, and common ones.
func registered() []string {
	return []string{
		"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "x-compress", "x-gzip", "zstd",
		"bzip2", "lz4", "lzma", "snappy", "xz",
	}
}

// opener returns what decodes a coding, or nil.
func opener(coding string) func(io.Reader) (io.Reader, error) {
	switch coding {
	case "gzip", "x-gzip":
		return func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case "deflate":
		return inflate
	}
	return nil
}

// inflate decodes deflate with zlib's header (RFC 1950, 2.2) or without.
func inflate(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(r)
	head, err := buffered.Peek(2)
	if err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(buffered)
	}
	return flate.NewReader(buffered), nil
}

// maxEncoded is how many bytes a file of this size may have when it is compressed:
// what does not shrink grows by its frame and five bytes a block.
func maxEncoded(size int64) int64 { return size + size>>8 + 64<<10 }

// decoded is a compressed body, decoded. It holds no more in memory than a window
// (32 KiB) and a buffer; how much comes out of it is bounded by whoever reads it.
type decoded struct {
	body       io.ReadCloser
	open       func(io.Reader) (io.Reader, error)
	most, left int64
	host       string
	plain      io.Reader
}

// Read implements io.Reader.
func (d *decoded) Read(p []byte) (int, error) {
	if d.plain == nil {
		plain, err := d.open(compressed{d})
		if err != nil {
			return 0, err
		}
		d.plain = plain
	}
	return d.plain.Read(p)
}

// Close implements io.Closer.
func (d *decoded) Close() error { return d.body.Close() }

// compressed is what the decoder reads. Without a bound, one that never comes to
// anything could go on for ever.
type compressed struct{ *decoded }

// Read implements io.Reader.
func (c compressed) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, &Exceeded{
			Kind: fetcher.ErrRefused, Host: c.host, Reason: fmt.Sprintf("compresses its answer to more than %d bytes, which is more than it has", c.most),
			Hint: "check that no proxy between here and the source changes its answers",
		}
	}
	n, err := c.body.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
