package hf_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/store"
)

// mustPull pulls all files of the repository with this driver, and compares them.
func mustPull(t *testing.T, d fetcher.Driver, want map[string][]byte) {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	f := fetcher.New(fetcher.Options{
		Store: s, Logger: slog.New(slog.DiscardHandler),
		Drivers: fetcher.Drivers{fetcher.SchemeHub: func(fetcher.Access) (fetcher.Driver, error) { return d, nil }},
	})
	res, err := f.Pull(t.Context(), fetcher.Request{Name: "tiny", Source: source(""), Include: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range want {
		if got, err := os.ReadFile(filepath.Join(res.Path, path)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s has %d bytes, want %d others, %v", path, len(got), len(content), err)
		}
	}
}

// large has weights that come in several ranges.
func large() map[string][]byte {
	files := tiny()
	files[weights] = bytes.Repeat([]byte("0123456789abcdef"), 40<<16)
	return files
}

// What mirrors do otherwise than the Hub does not keep a model from being pulled.
func TestPullFromMirrors(t *testing.T) {
	for name, c := range map[string]struct {
		mirror fetchertest.Mirror
		files  map[string][]byte
	}{
		"nexus":            {fetchertest.Mirror{NoTree: http.StatusBadRequest, Direct: true}, tiny()},
		"no tree":          {fetchertest.Mirror{NoTree: http.StatusNotFound}, tiny()},
		"artifactory":      {fetchertest.Mirror{Direct: true, ETags: fetchertest.SHA1ETags}, tiny()},
		"xet":              {fetchertest.Mirror{ETags: fetchertest.XetETags}, tiny()},
		"no content range": {fetchertest.Mirror{Direct: true, NoContentRange: true}, large()},
		"compresses":       {fetchertest.Mirror{Direct: true, GzipBelow: 1 << 20}, tiny()},
		"compresses all":   {fetchertest.Mirror{Direct: true, GzipBelow: 1 << 30}, large()},
		"cold":             {fetchertest.Mirror{Direct: true, Cold: 1200 * time.Millisecond}, tiny()},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel() // some of it is waiting
			hub := mirrorOf(t, c.mirror, c.files)
			// A cold file takes longer than the first try waits, and the second.
			d, err := hf.New(hf.Options{Endpoint: hub.URL(), Bounds: httpsource.Bounds{Header: 500 * time.Millisecond}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.CloseIdleConnections)
			mustPull(t, d, c.files)
		})
	}
}

// The list by the look-up of a revision vouches for the same as the tree does.
func TestListWithoutTree(t *testing.T) {
	files := tiny()
	want, err := newDriver(t, mirrorOf(t, fetchertest.Mirror{}, files).URL(), "").List(t.Context(), source(""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := newDriver(t, mirrorOf(t, fetchertest.Mirror{NoTree: http.StatusNotFound}, files).URL(), "").List(t.Context(), source(""))
	if err != nil || got.Revision != want.Revision || len(got.Files) != len(want.Files) {
		t.Fatalf("%d files of %s, %v; want %d of %s", len(got.Files), got.Revision, err, len(want.Files), want.Revision)
	}
	for i := range want.Files {
		if got.Files[i] != want.Files[i] {
			t.Errorf("%+v, want %+v", got.Files[i], want.Files[i])
		}
	}
}

func mirrorOf(t *testing.T, mirror fetchertest.Mirror, files map[string][]byte) *fetchertest.Hub {
	t.Helper()
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: mirror})
	push(t, hub, files)
	return hub
}

// However a mirror answers to the tree, the other question is asked, if only the Hub
// itself does not say why, and a later page's failure is none of the first's.
func TestListWithoutTreeHoweverAnswered(t *testing.T) {
	answered := func(status int, body string, header ...string) fetchertest.Effect {
		h := http.Header{"Content-Type": {"text/html"}}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return fetchertest.Answer(status, h, body)
	}
	for name, c := range map[string]struct {
		effect fetchertest.Effect
		skip   int
		kind   error // nil: it is listed
	}{
		"400":                 {effect: answered(400, "")},
		"401":                 {effect: answered(401, "")},
		"403":                 {effect: answered(403, "<html>")},
		"403 message":         {effect: answered(403, "", "X-Error-Message", "blocked by policy")},
		"404 message":         {effect: answered(404, "", "X-Error-Message", "not found")},
		"404 EntryNotFound":   {effect: answered(404, "", "X-Error-Code", "EntryNotFound")},
		"404 another's code":  {effect: answered(404, "", "X-Error-Code", "NoSuchRoute")},
		"405":                 {effect: answered(405, "")},
		"501":                 {effect: answered(501, "")},
		"200 HTML":            {effect: answered(200, "<html>welcome")},
		"200 error":           {effect: answered(200, `{"error":"not supported"}`)},
		"200 nothing":         {effect: answered(200, "")},
		"200 null":            {effect: answered(200, "null")},
		"gated":               {effect: answered(403, "", "X-Error-Code", "GatedRepo"), kind: fetcher.ErrRefused},
		"no repository":       {effect: answered(404, "", "X-Error-Code", "RepoNotFound"), kind: fetcher.ErrRefused},
		"throttled":           {effect: answered(429, ""), kind: fetcher.ErrThrottled},
		"fault":               {effect: answered(502, ""), kind: fetcher.ErrTransient},
		"cut":                 {effect: fetchertest.CutAfter(10), kind: fetcher.ErrTransient},
		"no list in the list": {effect: answered(200, `[1]`), kind: fetcher.ErrTransient},
		"second page, 404":    {effect: answered(404, "", "X-Error-Message", "no"), skip: 1, kind: fetcher.ErrRefused},
		"second page, HTML":   {effect: answered(200, "<html>"), skip: 1, kind: fetcher.ErrTransient},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{PageSize: 1})
			push(t, hub, tiny())
			d := newDriver(t, hub.URL(), "")
			want, err := d.List(t.Context(), source(""))
			if err != nil {
				t.Fatal(err)
			}
			hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindTree}, Skip: c.skip, Effect: c.effect})
			got, err := d.List(t.Context(), source(""))
			if !errors.Is(err, c.kind) || c.kind == nil && len(got.Files) != len(want.Files) || c.kind != nil && len(got.Files) > 0 {
				t.Errorf("%d files, %v; want %d, %v", len(got.Files), err, len(want.Files), c.kind)
			}
		})
	}
}

// A mirror that gives no list, in either way, is told which route it lacks.
func TestMissingRoutes(t *testing.T) {
	for name, c := range map[string]struct {
		mirror fetchertest.Mirror
		says   []string
	}{
		"neither": {fetchertest.Mirror{NoTree: http.StatusBadRequest, NoInfo: http.StatusNotFound}, []string{"answered 400 (to /api/models/acme/tiny-llama/tree/", "answered 404 (to /api/models/acme/tiny-llama/revision/"}},
		"names":   {fetchertest.Mirror{NoTree: http.StatusNotImplemented, NoBlobs: true}, []string{"answered 501 (to /api/models/acme/tiny-llama/tree/", "names files without their sizes in /api/models/acme/tiny-llama/revision/", "?blobs=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: c.mirror})
			commit := push(t, hub, tiny())
			_, err := newDriver(t, hub.URL(), "").List(t.Context(), source(commit))
			for _, says := range append(c.says, "it must pass on") {
				if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), says) {
					t.Errorf("error is %v, want a refusal that says %q", err, says)
				}
			}
		})
	}
	hub := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: fetchertest.Mirror{NoInfo: http.StatusNotFound}})
	push(t, hub, tiny())
	_, err := newDriver(t, hub.URL(), "").List(t.Context(), source(""))
	checkRefusal(t, err, "answered 404 (to /api/models/acme/tiny-llama/revision/main")
}

// Answers of a look-up that cannot be a list of the commit.
func TestBrokenLookUps(t *testing.T) {
	commit := strings.Repeat("a", 40)
	for body, c := range map[string]struct {
		kind error
		says string
	}{
		`{"sha":"` + strings.Repeat("b", 40) + `"}`:                                     {fetcher.ErrCorrupt, "another commit"},
		`{"sha":"` + commit + `"}`:                                                      {fetcher.ErrRefused, "without their sizes"},
		`{"siblings":[{"rfilename":"x","size":-1}]}`:                                    {fetcher.ErrCorrupt, "size -1"},
		`{"siblings":[{"rfilename":"x","size":1},{"rfilename":"x","size":1}]}`:          {fetcher.ErrCorrupt, "twice"},
		`{"siblings":[{"rfilename":"x","size":1,"lfs":{"sha256":"../../x","size":1}}]}`: {fetcher.ErrCorrupt, "digest"},
		`{"siblings":1}`: {fetcher.ErrTransient, "JSON"},
		`[]`:             {fetcher.ErrTransient, "JSON"},
		`{"siblings":[` + strings.Repeat(`{"rfilename":"x"},`, 3): {fetcher.ErrRefused, "without their sizes"},
		`{"cardData":"` + strings.Repeat("x", 9<<20) + `"}`:       {fetcher.ErrRefused, "more than 8192 KiB"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/tree/") {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_, _ = io.WriteString(w, body)
		}))
		_, err := newDriver(t, server.URL, "").List(t.Context(), source(commit))
		server.Close()
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60s: error is %v, want %q that says %q", body, err, c.kind, c.says)
		}
	}
}

// A mirror that passes requests for files on to another Hub cannot pass the token on.
func TestMirrorPassesRequestsOn(t *testing.T) {
	for name, c := range map[string]struct {
		options fetchertest.RepoOptions
		other   bool // the Hub behind the mirror has another repository
		says    []string
	}{
		"open":    {},
		"gated":   {options: fetchertest.RepoOptions{Gated: true, Tokens: []string{token}}, says: []string{"passes the request on", "GatedRepo", "a token goes to", "make 127.0.0.1:"}},
		"private": {options: fetchertest.RepoOptions{Private: true, Tokens: []string{token}}, says: []string{"passes the request on", "answered 401", "a token goes to"}},
		"other":   {other: true, says: []string{"passes the request on", "have 127.0.0.1:"}},
	} {
		t.Run(name, func(t *testing.T) {
			hub := fetchertest.StartHub(t, fetchertest.HubOptions{})
			push(t, hub, tiny())
			if c.other {
				hub = mirrorOf(t, fetchertest.Mirror{}, map[string][]byte{"other.json": nil})
			}
			hub.AddRepo(repoID, c.options)
			mirror := fetchertest.StartHub(t, fetchertest.HubOptions{Mirror: fetchertest.Mirror{PassTo: hub.URL()}, Tokens: []string{token}})
			push(t, mirror, tiny())
			d := newDriver(t, mirror.URL(), token)
			for _, path := range []string{"config.json", weights} {
				obj := object(t, d, path)
				got, err := fetchertest.ReadFrom(t.Context(), d, obj, 0)
				if len(c.says) == 0 && (err != nil || !bytes.Equal(got, tiny()[path])) {
					t.Errorf("%s: read %d bytes, %v", path, len(got), err)
				}
				for _, says := range c.says {
					checkRefusal(t, err, says)
				}
			}
			for _, r := range hub.Requests(fetchertest.Match{}) {
				if r.Authorized {
					t.Errorf("the token went to another host: %+v", r)
				}
			}
		})
	}
}

// What a mirror blocks is one file, not the repository, whatever it writes beside its
// status.
func TestMirrorBlocksOneFile(t *testing.T) {
	for _, status := range []int{401, 403, 404, 410, 451} {
		for name, header := range map[string]http.Header{
			"no words":   nil,
			"message":    {"X-Error-Message": {"blocked by policy"}},
			"code":       {"X-Error-Code": {"BlockedByPolicy"}, "X-Error-Message": {"blocked by policy"}},
			"own header": {"X-Policy": {"malware"}, "Content-Type": {"text/html"}},
		} {
			for _, token := range []string{"", token} {
				hub := mirrorOf(t, fetchertest.Mirror{}, tiny())
				hub.AddRepo(repoID, fetchertest.RepoOptions{Tokens: []string{token}})
				d := newDriver(t, hub.URL(), token)
				obj := object(t, d, "config.json")
				hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindResolve, File: "config.json"}, Effect: fetchertest.Answer(status, header, "<html>")})
				_, err := d.Open(t.Context(), obj, 0, obj.File.Size)
				for _, says := range []string{"answered " + strconv.Itoa(status), "the mirror refuses this file", "leave it out (--exclude"} {
					checkRefusal(t, err, says)
				}
				for _, blames := range []string{"permission", "spelling", "clock"} {
					if err != nil && strings.Contains(err.Error(), blames) {
						t.Errorf("%d with %s: the error speaks of %s: %v", status, name, blames, err)
					}
				}
			}
		}
	}
}

// Storage that refuses the addresses which a mirror has just given blocks the file: it
// is not asked again.
func TestStorageBlocksOneFile(t *testing.T) {
	hub := mirrorOf(t, fetchertest.Mirror{}, tiny())
	d := newDriver(t, hub.URL(), "")
	obj := object(t, d, weights)
	hub.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Effect: fetchertest.Status(http.StatusForbidden)})
	_, err := d.Open(t.Context(), obj, 0, obj.File.Size)
	for _, says := range []string{"answered 403", "the mirror refuses this file", "leave it out (--exclude", "clock"} {
		checkRefusal(t, err, says)
	}
	if n := len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindCDN})); n != 2 {
		t.Errorf("%d addresses were tried, want 2", n)
	}
}

// Compression that was not asked for ends where the file does, however much comes out
// of it, and however much must be read for nothing.
func TestGzipBombs(t *testing.T) {
	zeros := func(size int) []byte {
		var b bytes.Buffer
		zip := gzip.NewWriter(&b)
		for range size >> 16 {
			_, _ = zip.Write(make([]byte, 1<<16))
		}
		_ = zip.Close()
		return b.Bytes()
	}
	nothing := bytes.Repeat(zeros(0), 10_000)
	for name, c := range map[string]struct {
		body []byte
		size int64
		kind error // nil: it is read
	}{
		"as large as the file":  {zeros(1 << 20), 1 << 20, nil},
		"larger":                {zeros(64 << 20), 1 << 20, nil}, // the digest tells, as it does for other bytes
		"smaller":               {zeros(1 << 20), 2 << 20, fetcher.ErrTransient},
		"never comes to a byte": {nothing, 1000, fetcher.ErrRefused},
		"no gzip":               {bytes.Repeat([]byte("x"), 5000), 1000, fetcher.ErrTransient},
		"cut":                   {zeros(1 << 20)[:100], 1 << 20, fetcher.ErrTransient},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(c.body)
			}))
			t.Cleanup(server.Close)
			d := newDriver(t, server.URL, "")
			obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: "x.json", Size: c.size}}
			body, err := d.Open(t.Context(), obj, 0, c.size)
			var n int64
			if err == nil {
				n, err = io.Copy(io.Discard, body)
				err = errors.Join(err, body.Close())
			}
			if c.kind == nil && (err != nil || n != c.size) || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("%d bytes, %v; want %d, %v", n, err, c.size, c.kind)
			}
			if _, err := d.List(t.Context(), source(obj.Revision)); err == nil {
				t.Error("it is a list")
			}
		})
	}
}

// A file that is compressed itself may come with an encoding that speaks of the file.
func TestFileThatIsCompressedItself(t *testing.T) {
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write([]byte("{}"))
	_ = zip.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		http.ServeContent(w, r, "x.json.gz", time.Time{}, bytes.NewReader(zipped.Bytes()))
	}))
	t.Cleanup(server.Close)
	d, err := hf.New(hf.Options{Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	obj := fetcher.Object{Source: source(""), Revision: strings.Repeat("a", 40), File: fetcher.File{Path: "x.json.gz", Size: int64(zipped.Len())}}
	got, err := fetchertest.ReadFrom(t.Context(), d, obj, 0)
	if err != nil || !bytes.Equal(got, zipped.Bytes()) {
		t.Errorf("read %d bytes, %v; want %d as they are", len(got), err, zipped.Len())
	}
}
