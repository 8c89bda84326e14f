package fetchertest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// signedURL is the CDN's URL of a file, good for SignatureLife.
func (h *Hub) signedURL(repoID string, e entry, now time.Time) string {
	authority := h.options.CDNAuthority
	if authority == "" {
		authority = h.cdnListener.Addr().String()
	}
	expires := strconv.FormatInt(now.Add(h.options.SignatureLife).Unix(), 10)
	path := "/repos/" + repoID + "/" + e.LFS.OID
	query := url.Values{"Expires": {expires}, "Signature": {h.sign(path, e.Path, expires)}, "Key-Pair-Id": {"STAND-IN"}, "filename": {e.Path}}
	return "http://" + authority + path + "?" + query.Encode()
}

// ExpireSignatures makes the CDN refuse every URL that was signed before.
func (h *Hub) ExpireSignatures() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signing = []byte(rand.Text())
}

func (h *Hub) sign(path, filename, expires string) string {
	h.mu.Lock()
	key := h.signing
	h.mu.Unlock()
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(path + "\n" + filename + "\n" + expires)) // a hash never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// CDNHandler answers as the host behind the Hub's redirects: it serves what a
// good signature names, and refuses a request that carries a token.
func (h *Hub) CDNHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		parts := strings.Split(r.URL.Path, "/")
		oid := parts[len(parts)-1]
		repoID := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/repos/"), "/"+oid)
		h.serve(w, r, Request{Kind: KindCDN, Repo: repoID, File: query.Get("filename")}, func(a *answer) {
			expires, err := strconv.ParseInt(query.Get("Expires"), 10, 64)
			signature := h.sign(r.URL.Path, query.Get("filename"), query.Get("Expires"))
			h.mu.Lock()
			content := h.blobs[oid]
			h.mu.Unlock()
			switch {
			case r.Header.Get("Authorization") != "":
				a.xml(http.StatusBadRequest, "InvalidArgument", "Only one auth mechanism allowed")
			case !hmac.Equal([]byte(signature), []byte(query.Get("Signature"))):
				a.xml(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match")
			case err != nil || a.effect.expired || time.Now().Unix() >= expires:
				a.xml(http.StatusForbidden, "AccessDenied", "Request has expired")
			case content == nil:
				a.xml(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
			default:
				a.Header().Set("ETag", `"`+oid+`"`)
				a.Header().Set("Accept-Ranges", "bytes")
				a.file(r, entry{Path: query.Get("filename"), Size: content.Size(), content: content}, false)
			}
		})
	})
}

// xml answers as object stores do.
func (a *answer) xml(status int, code, message string) {
	a.Header().Set("Content-Type", "application/xml")
	a.WriteHeader(status)
	_, _ = a.Write([]byte(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>` + message + `</Message></Error>`))
}
