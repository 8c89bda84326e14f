package hf_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/hf"
)

// Whatever answers in the tree's place, with whatever next page, List ends, and
// what it lists has names, sizes and digests that can be.
func FuzzTree(f *testing.F) {
	entry := `{"type":"file","path":"config.json","size":2,"oid":"9e26dfeeb6e641a33dae4961196235bdb965b21b"}`
	lfs := `{"type":"file","path":"x.safetensors","size":9,"oid":"1","lfs":{"oid":"` + strings.Repeat("a", 64) + `","size":9,"pointerSize":130}}`
	for _, page := range []string{
		"[" + entry + "," + lfs + "]", "[]", "", "null", "{}", "[null]", "[[]]", `{"error":"x"}`, "[" + entry, "[" + entry + "]]",
		strings.Replace("["+entry+"]", ":2,", ":-2,", 1), strings.Replace("["+entry+"]", ":2,", ":1e99,", 1), strings.Replace("["+lfs+"]", "aaaa", "AAAA", 1),
		strings.Replace("["+entry+"]", "config.json", `..\/..\/x`, 1), strings.Replace("["+entry+"]", `"file"`, `"directory"`, 1), "[" + strings.Repeat("[", 10_000),
	} {
		f.Add([]byte(page), `<?cursor=2>; rel="next"`)
	}
	f.Add([]byte("[]"), `<http://elsewhere/>; rel="next"`)
	f.Add([]byte("[]"), `<>; rel="next", <%zz>; rel="next"`)
	var page atomic.Pointer[[]byte]
	var link atomic.Pointer[string]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(*link.Load(), r.URL.RawQuery) && r.URL.RawQuery != "recursive=true&expand=false" {
			_, _ = w.Write([]byte("[]")) // the further pages are empty; the client's end is the test's
			return
		}
		w.Header().Set("Link", *link.Load())
		_, _ = w.Write(*page.Load()) // as above
	}))
	f.Cleanup(server.Close)
	driver, err := hf.New(hf.Options{Endpoint: server.URL})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(driver.CloseIdleConnections)
	src := fetcher.Source{Scheme: fetcher.SchemeHub, Path: "a/b", Revision: strings.Repeat("c", 40)}
	f.Fuzz(func(t *testing.T, body []byte, next string) {
		next = strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return '.' // no header has them
			}
			return r
		}, next)
		page.Store(&body)
		link.Store(&next)
		l, err := driver.List(t.Context(), src)
		if err != nil {
			var e *fetcher.Error
			if !errors.As(err, &e) || e.Kind == nil {
				t.Errorf("%q, %q: an error of no kind: %v", body, next, err)
			}
			return
		}
		for _, file := range l.Files {
			if file.Path == "" || file.Size < 0 || file.Digest.Check() != nil {
				t.Errorf("%q lists %+v", body, file)
			}
		}
	})
}
