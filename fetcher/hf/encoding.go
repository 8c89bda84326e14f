package hf

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// gunzip takes off a compression that was not asked for: some caches compress small
// text for everybody. Of the compressed body, most bytes are read at most. A part of a
// compressed file is no part of the file, so only a whole answer is decoded.
func gunzip(resp *http.Response, most int64) {
	encoding := strings.ToLower(resp.Header.Get("Content-Encoding"))
	if encoding != "gzip" && encoding != "x-gzip" || resp.StatusCode != http.StatusOK {
		return
	}
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length") // of what is compressed
	resp.ContentLength = -1
	resp.Body = &unzipped{body: resp.Body, most: most, left: most, host: httpsource.Host(resp.Request.URL)}
}

// maxZipped is how many bytes a file of this size may have when it is compressed:
// what does not shrink grows by its frame and five bytes a block.
func maxZipped(size int64) int64 { return size + size>>8 + 64<<10 }

// unzipped is a gzipped body, decoded. It holds no more in memory than gzip's window
// (32 KiB); how much comes out of it is bounded by whoever reads it.
type unzipped struct {
	body       io.ReadCloser
	most, left int64
	host       string
	zip        *gzip.Reader
}

// Read implements io.Reader.
func (u *unzipped) Read(p []byte) (int, error) {
	if u.zip == nil {
		zip, err := gzip.NewReader(readerFunc(u.compressed))
		if err != nil {
			return 0, err
		}
		u.zip = zip
	}
	return u.zip.Read(p)
}

// compressed reads what the decoder asks for. Without a bound, one that never comes to
// anything could go on for ever.
func (u *unzipped) compressed(p []byte) (int, error) {
	if u.left == 0 {
		return 0, &httpsource.Exceeded{
			Kind: fetcher.ErrRefused, Host: u.host, Reason: fmt.Sprintf("compresses its answer to more than %d bytes, which is more than it has", u.most),
			Hint: "check that no proxy between here and the Hub changes its answers",
		}
	}
	n, err := u.body.Read(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	return n, err
}

// Close implements io.Closer.
func (u *unzipped) Close() error { return u.body.Close() }
