package fetchertest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// route is what a request of the Hub asks for.
type route struct {
	kind           Kind
	repo           string
	revision, file string
	cached         bool // behind a relative redirect already
}

// parseRoute reads an escaped path; a revision is one segment, whatever it
// contains.
func parseRoute(escaped string) route {
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, p := range parts {
		if plain, err := url.PathUnescape(p); err == nil {
			parts[i] = plain
		}
	}
	from := func(n int) string { return strings.Join(parts[min(n, len(parts)):], "/") }
	// A repository has one part or two; asks is where what is asked of it begins.
	repo := func(begin int, asks func(at int) bool) (id string, at int) {
		for at := min(begin+2, len(parts)); at > begin; at-- {
			if asks(at) {
				return strings.Join(parts[begin:at], "/"), at
			}
		}
		return "", 0
	}
	switch {
	case strings.HasPrefix(escaped, "/api/models/"):
		id, at := repo(2, func(at int) bool {
			return at == len(parts) || at+1 < len(parts) && slices.Contains([]string{"revision", "tree", "paths-info"}, parts[at])
		})
		switch {
		case id == "":
		case at == len(parts):
			return route{kind: KindInfo, repo: id, revision: "main"}
		case parts[at] == "revision" && at+2 == len(parts):
			return route{kind: KindInfo, repo: id, revision: parts[at+1]}
		case parts[at] == "tree":
			return route{kind: KindTree, repo: id, revision: parts[at+1], file: from(at + 2)}
		case parts[at] == "paths-info" && at+2 == len(parts):
			return route{kind: KindPaths, repo: id, revision: parts[at+1]}
		}
	case strings.HasPrefix(escaped, "/api/resolve-cache/models/"):
		if id, at := repo(3, func(at int) bool { return at+1 < len(parts) && len(parts[at]) == 40 }); id != "" {
			return route{kind: KindResolve, repo: id, revision: parts[at], file: from(at + 1), cached: true}
		}
	default:
		if id, at := repo(0, func(at int) bool { return at+2 < len(parts) && parts[at] == "resolve" }); id != "" {
			return route{kind: KindResolve, repo: id, revision: parts[at+1], file: from(at + 2)}
		}
	}
	return route{kind: KindOther}
}

// HubHandler answers as huggingface.co.
func (h *Hub) HubHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt := parseRoute(r.URL.EscapedPath())
		h.serve(w, r, Request{Kind: rt.kind, Repo: rt.repo, File: rt.file}, func(a *answer) {
			quota := h.api
			if rt.kind == KindResolve {
				quota = h.resolves
			}
			if !quota.take(a.Header(), time.Now()) {
				a.fail(http.StatusTooManyRequests, "", "We had to rate limit you")
				return
			}
			h.serveRoute(a, r, rt)
		})
	})
}

func (h *Hub) serveRoute(a *answer, r *http.Request, rt route) {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !reads && (rt.kind != KindPaths || r.Method != http.MethodPost) {
		a.fail(http.StatusMethodNotAllowed, "", "Method not allowed")
		return
	}
	if h.options.Mirror.refuse(a, r, rt) {
		return
	}
	c, ok := h.admit(a, r, rt)
	if !ok {
		return
	}
	switch rt.kind {
	case KindInfo:
		h.serveInfo(a, r, rt, c)
	case KindTree:
		h.serveTree(a, r, rt, c)
	case KindPaths:
		servePaths(a, r, c)
	case KindResolve:
		h.serveResolve(a, r, rt, c)
	default:
		a.fail(http.StatusNotFound, "", "Not found")
	}
}

// serveInfo tells of a revision: all of it, or what expand names. As any answer of
// Express, it has a weak ETag of its text.
func (h *Hub) serveInfo(a *answer, r *http.Request, rt route, c *commit) {
	query := r.URL.Query()
	info := map[string]any{"_id": c.id[:24], "id": rt.repo, "modelId": rt.repo, "sha": c.id, "private": false, "gated": false, "disabled": false, "tags": []string{}}
	if expand := query["expand"]; len(expand) > 0 {
		for key := range info {
			if key != "_id" && key != "id" && !slices.Contains(expand, key) {
				delete(info, key)
			}
		}
	} else {
		info["siblings"] = siblings(c, strings.EqualFold(query.Get("blobs"), "true") && !h.options.Mirror.NoBlobs)
	}
	sum := sha256.New()
	_ = json.NewEncoder(sum).Encode(info) // neither fails
	etag := fmt.Sprintf(`W/"%x"`, sum.Sum(nil)[:8])
	a.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		a.WriteHeader(http.StatusNotModified)
		return
	}
	a.json(info)
}

// siblings names the files; with blobs, sizes and digests as well.
func siblings(c *commit, blobs bool) []map[string]any {
	list := make([]map[string]any, 0, len(c.files))
	for _, e := range c.entries {
		if e.Type != "file" {
			continue
		}
		sibling := map[string]any{"rfilename": e.Path}
		if blobs {
			sibling["size"], sibling["blobId"] = e.Size, e.OID
			if e.LFS != nil {
				sibling["lfs"] = map[string]any{"sha256": e.LFS.OID, "size": e.LFS.Size, "pointerSize": e.LFS.PointerSize}
			}
		}
		list = append(list, sibling)
	}
	return list
}

// admit finds the commit that a request is about, or answers as the Hub does
// when it is not there, or not for this token.
func (h *Hub) admit(a *answer, r *http.Request, rt route) (*commit, bool) {
	token, given := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	h.mu.Lock()
	defer h.mu.Unlock()
	if given && !h.knows(token) {
		a.fail(http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
		return nil, false
	}
	rp := h.repos[rt.repo]
	member := rp != nil && given && slices.Contains(rp.options.Tokens, token)
	switch {
	case (rp == nil || rp.options.Private && !member) && given:
		a.fail(http.StatusNotFound, "RepoNotFound", "Repository not found")
		return nil, false
	case rp == nil || rp.options.Private && !member:
		// The Hub does not tell a missing repository from a private one.
		a.fail(http.StatusUnauthorized, "", "Invalid username or password.")
		return nil, false
	case rp.options.Gated && !member && rt.kind == KindResolve:
		status, what := http.StatusUnauthorized, "You must have access to it and be authenticated to access it. Please log in."
		if given {
			status, what = http.StatusForbidden, "You are not in the authorized list. Visit the model page to ask for access."
		}
		a.fail(status, "GatedRepo", "Access to model "+rt.repo+" is restricted. "+what)
		return nil, false
	}
	c, ok := rp.resolve(rt.revision)
	if !ok {
		a.fail(http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+rt.revision)
		return nil, false
	}
	a.Header().Set("X-Repo-Commit", c.id)
	return c, true
}

// knows reports whether a token is anyone's; h.mu is held.
func (h *Hub) knows(token string) bool {
	if slices.Contains(h.options.Tokens, token) {
		return true
	}
	for _, r := range h.repos {
		if slices.Contains(r.options.Tokens, token) {
			return true
		}
	}
	return false
}

// serveTree answers one page; the cursor is the path that the next page begins
// after.
func (h *Hub) serveTree(a *answer, r *http.Request, rt route, c *commit) {
	query := r.URL.Query()
	recursive := strings.EqualFold(query.Get("recursive"), "true") || query.Get("recursive") == "1"
	cursor := query.Get("cursor")
	list, more := c.below(rt.file, cursor, recursive, h.options.PageSize)
	if rt.file != "" && cursor == "" && len(list) == 0 {
		a.fail(http.StatusNotFound, "EntryNotFound", rt.file+" does not exist on "+rt.revision)
		return
	}
	if more {
		query.Set("cursor", list[len(list)-1].Path)
		a.Header().Set("Link", "<http://"+r.Host+r.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
	}
	if strings.EqualFold(query.Get("expand"), "true") {
		list = expanded(list, c)
	}
	a.json(list)
}

// servePaths answers for the paths that the body names, in JSON as npm's client
// writes it or as a form as PyPI's does; paths that are not there are left out.
func servePaths(a *answer, r *http.Request, c *commit) {
	var asked struct {
		Paths  []string `json:"paths"`
		Expand bool     `json:"expand"`
	}
	body := http.MaxBytesReader(a, r.Body, 1<<20)
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		if err := json.NewDecoder(body).Decode(&asked); err != nil {
			a.fail(http.StatusBadRequest, "", "Invalid body")
			return
		}
	} else {
		r.Body = body
		if err := r.ParseForm(); err != nil {
			a.fail(http.StatusBadRequest, "", "Invalid body")
			return
		}
		asked.Paths, asked.Expand = r.PostForm["paths"], strings.EqualFold(r.PostForm.Get("expand"), "true")
	}
	list := []entry{}
	for _, e := range c.entries {
		if slices.Contains(asked.Paths, e.Path) {
			list = append(list, e)
		}
	}
	if asked.Expand {
		list = expanded(list, c)
	}
	a.json(list)
}

// expanded adds what the Hub tells only those who ask for it.
func expanded(list []entry, c *commit) []entry {
	list = slices.Clone(list)
	for i := range list {
		list[i].LastCommit = &lastCommit{ID: c.id, Title: "Push", Date: "2023-11-14T22:13:20.000Z"}
	}
	return list
}

func (h *Hub) serveResolve(a *answer, r *http.Request, rt route, c *commit) {
	e, ok := c.files[rt.file]
	if !ok {
		a.fail(http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	a.Header().Set("Accept-Ranges", "bytes")
	a.Header().Set("ETag", `"`+e.etag()+`"`)
	if h.options.Mirror.send(h, a, r, e) {
		return
	}
	switch {
	case e.LFS != nil:
		a.Header().Set("X-Linked-Etag", `"`+e.LFS.OID+`"`)
		a.Header().Set("X-Linked-Size", fmt.Sprint(e.Size))
		a.redirect(http.StatusFound, h.signedURL(rt.repo, e, time.Now()))
	case h.options.RelativeRedirects && !rt.cached:
		a.Header().Set("X-Linked-Size", fmt.Sprint(e.Size))
		target := url.URL{Path: "/api/resolve-cache/models/" + rt.repo + "/" + c.id + "/" + e.Path}
		a.redirect(http.StatusTemporaryRedirect, target.EscapedPath())
	default:
		a.file(r, e, true)
	}
}

// redirect answers with a Location and, as the Hub does, a body that says so.
func (a *answer) redirect(status int, location string) {
	body := http.StatusText(status) + ". Redirecting to " + location
	a.Header().Set("Location", location)
	a.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.Header().Set("Content-Length", fmt.Sprint(len(body)))
	a.WriteHeader(status)
	_, _ = a.Write([]byte(body))
}

// fail answers with an error as the Hub words it: the code, where there is
// one, and the message, in headers and in JSON.
func (a *answer) fail(status int, code, message string) {
	if code != "" {
		a.Header().Set("X-Error-Code", code)
	}
	a.Header().Set("X-Error-Message", message)
	a.Header().Set("Content-Type", "application/json; charset=utf-8")
	a.WriteHeader(status)
	_ = json.NewEncoder(a).Encode(map[string]string{"error": message}) // a client that left hears nothing
}

func (a *answer) json(value any) {
	a.Header().Set("Content-Type", "application/json; charset=utf-8")
	write := func(w io.Writer) { _ = json.NewEncoder(w).Encode(value) } // a client that left hears nothing
	if a.mirror.GzipBelow > 0 {
		a.unasked(write)
		return
	}
	write(a)
}
