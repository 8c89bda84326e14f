package hf_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
)

func TestPinnedRevisionIsNotLookedUp(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	commit := push(t, hub, tiny())
	if _, err := newDriver(t, hub.URL(), "").List(t.Context(), source(commit)); err != nil {
		t.Fatal(err)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindInfo})); n != 0 {
		t.Errorf("a commit was looked up %d times", n)
	}
}

func TestRevisionIsEscapedWhole(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	commit := push(t, hub, tiny())
	for _, ref := range []string{"refs/pr/1", "feature/a+b", "v1.0%2F", "größe"} {
		if err := hub.SetRef(repoID, ref, commit); err != nil {
			t.Fatal(err)
		}
		l, err := newDriver(t, hub.URL(), "").List(t.Context(), source(ref))
		if err != nil || l.Revision != commit {
			t.Errorf("%s: revision %q, %v", ref, l.Revision, err)
		}
	}
	for _, r := range hub.Requests(fetchertest.Match{}) {
		if strings.Contains(r.Path, "refs/pr") || r.Kind == fetchertest.KindResolve && !strings.Contains(r.Path, commit) {
			t.Errorf("asked for %s", r.Path)
		}
	}
}

func TestPagesAreReadToTheEnd(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{PageSize: 7})
	files := map[string][]byte{}
	for i := range 50 {
		files[fmt.Sprintf("folder-%d/file-%02d.json", i%4, i)] = fmt.Appendf(nil, "%d", i)
	}
	push(t, hub, files)
	l, err := newDriver(t, hub.URL(), "").List(t.Context(), source(""))
	if err != nil || len(l.Files) != len(files) {
		t.Fatalf("%d files of %d, %v", len(l.Files), len(files), err)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindTree})); n != 8 { // 54 entries with the folders
		t.Errorf("%d pages, want 8", n)
	}
	// A page that fails is an error, never a short list.
	hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindTree}, Skip: 3, Effect: fetchertest.Status(http.StatusBadGateway)})
	l, err = newDriver(t, hub.URL(), "").List(t.Context(), source(""))
	if !errors.Is(err, fetcher.ErrTransient) || len(l.Files) > 0 {
		t.Errorf("%d files and %v", len(l.Files), err)
	}
}

// What a hostile or broken server could do with pages, entries and redirects.
func TestHostileServer(t *testing.T) {
	commit := strings.Repeat("a", 40)
	entry := func(json string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "["+json+"]") }
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		kind   error
		says   string
	}{
		{"next page elsewhere", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `<http://evil.test/x>; rel="next"`)
			_, _ = io.WriteString(w, "[]")
		}, fetcher.ErrRefused, "another host, evil.test"},
		{"next page with a user", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<http://user:Signature=@"+r.Host+`/x>; rel="next"`)
			_, _ = io.WriteString(w, "[]")
		}, fetcher.ErrRefused, "credentials of the answer's own"},
		{"next page of no address", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `<http://%zz/>; rel="next"`)
			_, _ = io.WriteString(w, "[]")
		}, fetcher.ErrRefused, "no valid address"},
		{"next page is this page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<"+r.URL.String()+`>; rel="next"`)
			_, _ = io.WriteString(w, "[]")
		}, fetcher.ErrRefused, "never end"},
		{"always another page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<"+r.URL.String()+`0>; rel="next"`)
			_, _ = io.WriteString(w, "[]")
		}, fetcher.ErrRefused, "never end"},
		{"no list", entry(`1]`), fetcher.ErrTransient, "JSON"},
		{"endless answer", func(w http.ResponseWriter, _ *http.Request) {
			for range 40 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		}, fetcher.ErrRefused, "more than"},
		{"digest that is none", entry(`{"type":"file","path":"x","size":1,"oid":"","lfs":{"oid":"../../x","size":1}}`), fetcher.ErrCorrupt, "digest"},
		{"negative size", entry(`{"type":"file","path":"x","size":-1}`), fetcher.ErrCorrupt, "size -1"},
		{"size that no file has", entry(`{"type":"file","path":"x","size":9223372036854775808}`), fetcher.ErrCorrupt, "size that no file has"},
		{"size of a large file that none has", entry(`{"type":"file","path":"x","size":1,"lfs":{"oid":"` + strings.Repeat("0", 64) + `","size":1e30}}`), fetcher.ErrCorrupt, "size that no file has"},
		{"symlink", entry(`{"type":"symlink","path":"config.json","oid":"` + commit + `","size":1}`), fetcher.ErrRefused, `entry "config.json" is of the type symlink`},
		{"entry of no type", entry(`{"path":"config.json","size":1}`), fetcher.ErrRefused, `entry "config.json" is of no type`},
		{"redirects for ever", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
		}, fetcher.ErrTransient, "redirects"},
		{"redirect to a file", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, fetcher.ErrRefused, "redirect to another scheme"},
		{"redirect to an address with a user", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://user:password@127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		}, fetcher.ErrRefused, "redirect to an address with a user"},
		{"redirect that is no address", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://%zz/?Signature=abc")
			w.WriteHeader(http.StatusFound)
		}, fetcher.ErrTransient, "no valid address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			t.Cleanup(server.Close)
			l, err := newDriver(t, server.URL, token).List(t.Context(), source(commit))
			if err == nil && len(l.Files) == 1 {
				err = l.Files[0].Unusable // refused where it is chosen
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want %q that says %q", err, c.kind, c.says)
			}
			if err != nil && (strings.Contains(err.Error(), "Signature=") || strings.Contains(err.Error(), token)) {
				t.Error("the error shows a secret")
			}
		})
	}
}

func TestEndpoint(t *testing.T) {
	for _, endpoint := range []string{"ftp://hub.test", "hub.test", "http://", "https://hub.test?x=1", "https://user:pass@hub.test", "http://a b", "http://user:pa%ss@hub"} {
		_, err := hf.New(hf.Options{Endpoint: endpoint})
		if err == nil {
			t.Errorf("%q is accepted", endpoint)
		} else if strings.Contains(err.Error(), "pass") && strings.Contains(endpoint, "pass") || strings.Contains(err.Error(), "pa%ss") {
			t.Errorf("%q: the error shows the password", endpoint)
		}
	}
}

// A mirror below a path, as artifact servers have it.
func TestEndpointWithAPath(t *testing.T) {
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
	push(t, hub, tiny())
	server := httptest.NewServer(http.StripPrefix("/mirrors/hub", hub.HubHandler()))
	t.Cleanup(server.Close)
	d := newDriver(t, server.URL+"/mirrors/hub/", "")
	got, err := fetchertest.ReadFrom(t.Context(), d, object(t, d, weights), 0)
	if err != nil || !bytes.Equal(got, tiny()[weights]) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}
