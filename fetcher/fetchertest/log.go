package fetchertest

import (
	"slices"
	"strings"
)

// Kind is what a request asks for.
type Kind string

// Kinds of requests.
const (
	// KindInfo looks a revision up.
	KindInfo Kind = "info"
	// KindTree reads one page of the file list.
	KindTree Kind = "tree"
	// KindPaths asks for the entries of some paths.
	KindPaths Kind = "paths"
	// KindResolve asks the Hub for a file.
	KindResolve Kind = "resolve"
	// KindCDN asks the second host for a file's bytes.
	KindCDN Kind = "cdn"
	// KindOther is everything else.
	KindOther Kind = "other"
)

// Request is one answered request. It carries no token and no signature.
type Request struct {
	// ID is the X-Request-Id of the answer.
	ID   string
	Kind Kind
	// Method is the HTTP method, Path the escaped path without the query.
	Method, Path string
	// Repo and File say what it was about, where the kind has such.
	Repo, File string
	// Range and UserAgent are the headers as they were sent.
	Range, UserAgent string
	// Authorized says that an Authorization header was sent, right or wrong.
	Authorized bool
	// Status is the HTTP status, 0 if the connection was cut before one.
	Status int
	// Bytes of body sent.
	Bytes int64
}

// Match selects requests; empty fields match all.
type Match struct {
	Kind   Kind
	Method string
	// File is a path in the repository, or the end of one after a '*'.
	File string
}

func (m Match) matches(r *Request) bool {
	end, wild := strings.CutPrefix(m.File, "*")
	switch {
	case m.Kind != "" && m.Kind != r.Kind, m.Method != "" && m.Method != r.Method:
		return false
	case wild:
		return strings.HasSuffix(r.File, end)
	}
	return m.File == "" || m.File == r.File
}

// Requests returns the requests answered so far that match, in the order in
// which they ended.
func (h *Hub) Requests(m Match) []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Request
	for _, r := range h.log {
		if m.matches(&r) {
			list = append(list, r)
		}
	}
	return list
}

// BytesSent adds up the bodies of the requests that match.
func (h *Hub) BytesSent(m Match) int64 {
	var n int64
	for _, r := range h.Requests(m) {
		n += r.Bytes
	}
	return n
}

// Leaks returns the requests that carried an Authorization header to the CDN,
// which must never happen.
func (h *Hub) Leaks() []Request {
	return slices.DeleteFunc(h.Requests(Match{Kind: KindCDN}), func(r Request) bool { return !r.Authorized })
}

// ResetLog forgets the requests so far.
func (h *Hub) ResetLog() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = nil
}
