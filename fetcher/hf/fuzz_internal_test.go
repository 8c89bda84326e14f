package hf

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// FuzzLink: whatever a Link header says, the next page is asked of the endpoint itself.
func FuzzLink(f *testing.F) {
	for _, link := range []string{
		`<https://hub.example/api/models/a/b/tree/main?cursor=1>; rel="next"`, `<?cursor=1>;rel="next"`, `</x>; rel = "next"`, `<//elsewhere/x>; rel="next"`,
		`<https://hub.example:444/>; rel="next"`, `<https://u:p@hub.example/>; rel="next"`, `<http://hub.example/>; rel="next"`, `<javascript:x>; rel="next"`,
		`<a>; rel="prev", <b>; rel="next"`, `<%zz>; rel="next"`, `<>; rel="next"`, `<a,b>; rel="next"`, `; rel="next"`, "", `<\evil>; rel="next"`,
	} {
		f.Add(link)
	}
	d, err := New(Options{Endpoint: "https://hub.example"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(d.CloseIdleConnections)
	page := d.url("/api/models/a/b/tree/main")
	f.Fuzz(func(t *testing.T, link string) {
		next, err := d.nextPage(page, http.Header{"Link": {link}})
		if err != nil || next == nil {
			return
		}
		// As it is asked for.
		asked, err := url.Parse(next.String())
		if err != nil {
			t.Fatalf("%q: %v", link, err)
		}
		port := asked.Port()
		if asked.Scheme != "https" || !strings.EqualFold(asked.Hostname(), "hub.example") || port != "" && port != "443" || asked.User != nil {
			t.Errorf("%q leads to %s", link, asked)
		}
	})
}

// FuzzWaits: no header asks to wait for less than nothing, or holds back other requests
// for longer than a limit can be used up. How long an answer may be waited for, whoever
// waits decides.
func FuzzWaits(f *testing.F) {
	for _, limit := range []string{`"resolvers";r=0;t=55`, `"api";r=1;t=9`, `r=0;t=4294967295`, `r=0;t=-1`, `r=0`, `t=1;r=0;t=2`, ";;=;", ""} {
		for _, after := range []string{"3", "-1", "4294967295", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "1.5", ""} {
			f.Add(limit, after)
		}
	}
	f.Fuzz(func(t *testing.T, limit, after string) {
		header := http.Header{"Ratelimit": {limit}, "Retry-After": {after}}
		if wait := retryAfter(header); wait < 0 {
			t.Errorf("%q, %q: %s", limit, after, wait)
		}
		var l limits
		now := time.Now()
		for range 20 {
			l.learn(limitAPI, http.StatusTooManyRequests, header, now, 0.999)
			left, until := l.left(limitAPI, now)
			if left < 0 || left > maxSpent+max(maxSpent, maxSpread) || until.Sub(now) > maxSpent {
				t.Errorf("%q, %q: refused for %s", limit, after, left)
			}
			now = now.Add(left)
		}
	})
}
