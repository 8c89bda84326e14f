package fetchertest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
)

// Compressing is a transport to a server that compresses the answers to GETs, whoever
// asks, and names that in Content-Encoding. "gzip" and "deflate" are done, "raw" is
// deflate without zlib's header, and what is done for other names is no matter.
type Compressing struct {
	Base http.RoundTripper
	// Coding is how; Named what Content-Encoding says, if not the same.
	Coding, Named string
	// Parts are compressed, too; else the whole file comes, whatever range is asked for.
	Parts bool
}

// RoundTrip implements http.RoundTripper.
func (c Compressing) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet {
		return c.Base.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	if !c.Parts {
		req.Header.Del("Range") // tests' servers do not mind that it was signed
	}
	resp, err := c.Base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	var w io.WriteCloser
	switch {
	case strings.HasSuffix(c.Coding, "gzip"):
		w = gzip.NewWriter(&b)
	case c.Coding == "raw":
		w, _ = flate.NewWriter(&b, flate.DefaultCompression) // the level is one
	default:
		w = zlib.NewWriter(&b)
	}
	_, _ = w.Write(body) // a buffer takes everything
	_ = w.Close()
	named := c.Coding
	if c.Named != "" {
		named = c.Named
	}
	resp.Header.Set("Content-Encoding", named)
	resp.Header.Del("Content-Length")
	resp.ContentLength, resp.Body = -1, io.NopCloser(&b)
	return resp, nil
}

// Coding is a way to compress, and whether it can be taken off.
type Coding struct {
	How     Compressing
	Decoded bool
}

// Codings are the ways to compress that drivers are tested with, by name.
func Codings() map[string]Coding {
	return map[string]Coding{
		"gzip":              {Compressing{Coding: "gzip"}, true},
		"x-gzip":            {Compressing{Coding: "x-gzip"}, true},
		"deflate":           {Compressing{Coding: "deflate"}, true},
		"raw deflate":       {Compressing{Coding: "raw", Named: "Deflate"}, true},
		"identity and gzip": {Compressing{Coding: "gzip", Named: "identity, gzip"}, true},
		"br":                {Compressing{Coding: "br"}, false},
		"zstd":              {Compressing{Coding: "zstd"}, false},
		"gzip twice":        {Compressing{Coding: "gzip", Named: "gzip, gzip"}, false},
		"parts":             {Compressing{Coding: "gzip", Parts: true}, false},
	}
}
