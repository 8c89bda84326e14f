package fetchertest

import (
	"compress/gzip"
	"crypto/sha1" //nolint:gosec // what Artifactory names content by
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Mirror is how the caches and proxies that companies put before the Hub differ from
// it; the zero value does not. Each trait is one that was seen: of Nexus 3.94 that it
// answers 400 to the tree and sends large files itself, of Artifactory that its ETags
// are the content's SHA-1 and that it fetches a file before it answers, of nginx that
// it compresses small text.
type Mirror struct {
	// NoTree is the status that the file list is refused with, without a code of the
	// Hub's; 0: it is given.
	NoTree int
	// NoBlobs has a look-up of a revision with ?blobs=true list names only.
	NoBlobs bool
	// NoInfo is the status that every look-up of a revision is refused with.
	NoInfo int
	// NoExpand is the status that a look-up with ?expand= is refused with; 0: it is
	// answered as the Hub does.
	NoExpand int
	// Direct sends large files, too, from the mirror itself.
	Direct bool
	// ETags are of another kind than the Hub's, and X-Linked-Etag is left out.
	ETags ETags
	// GzipBelow compresses files of fewer bytes than this, and JSON, whoever asks.
	GzipBelow int64
	// NoContentRange leaves Content-Range out of parts.
	NoContentRange bool
	// Cold is how long the first answer for each file takes: the mirror fetches it,
	// also if nobody waits any more.
	Cold time.Duration
	// PassTo is the address of another Hub, which every request for a file is
	// redirected to.
	PassTo string
}

// ETags are what a mirror makes ETags of.
type ETags string

// Kinds of ETags.
const (
	// HubETags are the digests of the Hub's tree.
	HubETags ETags = ""
	// SHA1ETags are the SHA-1 of the content.
	SHA1ETags ETags = "sha1"
	// XetETags have the form of a sha256 and are none, as Xet's hashes.
	XetETags ETags = "xet"
)

// of returns the ETag of a content; the Hub's own is given.
func (k ETags) of(c *Content, own string) string {
	var h hash.Hash
	switch k {
	case SHA1ETags:
		h = sha1.New() //nolint:gosec // see above
	case XetETags:
		h = sha256.New()
		_, _ = h.Write([]byte("xet"))
	case HubETags:
		return own
	}
	_, _ = io.Copy(h, c.Reader()) // contents of tests do not fail
	return hex.EncodeToString(h.Sum(nil))
}

// refuse answers a request that the mirror does not know, and reports whether it did.
func (m Mirror) refuse(a *answer, r *http.Request, rt route) bool {
	status := 0
	switch rt.kind {
	case KindTree:
		status = m.NoTree
	case KindInfo:
		if status = m.NoInfo; status == 0 && r.URL.Query().Has("expand") {
			status = m.NoExpand
		}
	}
	if status == 0 {
		return false
	}
	a.Header().Set("Content-Type", "text/html")
	a.WriteHeader(status)
	_, _ = io.WriteString(a, "<html><body>"+http.StatusText(status)+"</body></html>")
	return true
}

// send answers a request for a file in the mirror's way, and reports whether it did.
func (m Mirror) send(h *Hub, a *answer, r *http.Request, e entry) bool {
	if m.PassTo != "" {
		a.redirect(http.StatusTemporaryRedirect, m.PassTo+(&url.URL{Path: r.URL.Path}).EscapedPath())
		return true
	}
	if m.Cold > 0 && !h.fetched(r, e) {
		return true
	}
	if m.ETags != HubETags {
		a.Header().Set("ETag", `"`+m.ETags.of(e.content, e.etag())+`"`)
	}
	if !m.Direct {
		return false
	}
	if e.LFS != nil && m.ETags == HubETags {
		a.Header().Set("X-Linked-Etag", `"`+e.LFS.OID+`"`)
		a.Header().Set("X-Linked-Size", fmt.Sprint(e.Size))
	}
	a.file(r, e, true)
	return true
}

// fetched waits until the mirror has the file, or reports that the client has left.
func (h *Hub) fetched(r *http.Request, e entry) bool {
	h.mu.Lock()
	ready, ok := h.cold[e.Path]
	if !ok {
		ready = time.Now().Add(h.options.Mirror.Cold)
		h.cold[e.Path] = ready
	}
	h.mu.Unlock()
	wait := time.NewTimer(time.Until(ready))
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// unasked compresses the answer of handle, whoever asks.
func (a *answer) unasked(handle func(io.Writer)) {
	a.Header().Set("Content-Encoding", "gzip")
	a.Header().Del("Content-Length")
	zip := gzip.NewWriter(a)
	handle(zip)
	_ = zip.Close() // a client that left hears nothing
}
