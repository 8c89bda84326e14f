package fetcher_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// manyFiles is a repository with n small files. All but the first and the last
// have one content, so that it is quickly made.
func manyFiles(n int) fetchertest.Tree {
	tree := fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}"))}
	same := fetchertest.Bytes([]byte("a record"))
	for i := range n - 1 {
		content := same
		if i < 10 || i > n-20 {
			content = fetchertest.Bytes(fmt.Appendf(nil, `{"record":%d}`, i))
		}
		tree[fmt.Sprintf("data/part-%03d/record-%06d.json", i/1000, i)] = content
	}
	return tree
}

// A list of 100,000 files costs its pages, and what is chosen, no more.
func TestPullFewOfManyFiles(t *testing.T) {
	const files, folders, page = 100_000, 101, 1000
	e := newEnv(t, fetchertest.HubOptions{})
	tree := manyFiles(files)
	commit := e.push(repoID, tree)
	req := request("many", "")
	req.Include = []string{"config.json", "*/record-09999[0-7].json", "data/part-000/record-000001.json"}
	res := e.mustPull(req)
	if want := int64(len("{}") + 8*len(`{"record":99990}`) + len(`{"record":1}`)); res.Bytes != want || res.DownloadedBytes != want {
		t.Errorf("%d bytes, downloaded %d, want %d", res.Bytes, res.DownloadedBytes, want)
	}
	if pages := len(e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindTree})); pages != (files+folders+page-1)/page {
		t.Errorf("asked for %d pages", pages)
	}
	if asked := len(e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve})); asked != 10 {
		t.Errorf("asked for %d files", asked)
	}
	if got := checkStore(t, e.dir); len(got) != 1 || !got["many@"+commit] {
		t.Errorf("published %v", got)
	}
	for name, want := range map[string]string{"data/part-099/record-099997.json": `{"record":99997}`, "data/part-000/record-000001.json": `{"record":1}`} {
		if content, err := os.ReadFile(filepath.Join(res.Path, name)); err != nil || string(content) != want {
			t.Errorf("%s holds %q, %v", name, content, err)
		}
	}
}

// One name of the last page that no source may give, or that does not go with
// one of the first, and nothing of the list is used.
func TestPullHostileLastPage(t *testing.T) {
	const page = 100
	tree := manyFiles(5 * page)
	for what, c := range map[string]struct {
		path string
		kind error
	}{
		"escapes":              {"data/../../../../escaped", fetcher.ErrCorrupt},
		"absolute device":      {"/dev/null", fetcher.ErrCorrupt},
		"control character":    {`data/part-000/\u001b[2J`, fetcher.ErrCorrupt},
		"4096 characters":      {strings.Repeat("folder/", 585) + "x", fetcher.ErrRefused},
		"listed twice":         {"config.json", fetcher.ErrCorrupt},
		"file in a file":       {"config.json/x", fetcher.ErrRefused},
		"file where folder is": {"data/part-000", fetcher.ErrRefused},
	} {
		t.Run(what, func(t *testing.T) {
			e := newEnv(t, fetchertest.HubOptions{PageSize: page})
			e.push(repoID, tree)
			e.store()
			before := snapshot(t, filepath.Dir(e.dir))
			answer := fmt.Sprintf(`[{"type":"file","path":"zzz.json","size":2,"oid":"9e26dfeeb6e641a33dae4961196235bdb965b21b"},
				{"type":"file","path":"%s","size":2,"oid":"9e26dfeeb6e641a33dae4961196235bdb965b21b"}]`, c.path)
			e.hub.Inject(fetchertest.Fault{
				Match: fetchertest.Match{Kind: fetchertest.KindTree}, Skip: 5, // 500 files and 2 folders
				Effect: fetchertest.Answer(http.StatusOK, nil, answer),
			})
			_, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
			if !errors.Is(err, c.kind) {
				t.Errorf("pull ends with %v, want %v", err, c.kind)
			}
			if asked := e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve}); len(asked) > 0 {
				t.Errorf("asked for %d files", len(asked))
			}
			// The lock of the model is all that may be new.
			after := strings.ReplaceAll(snapshot(t, filepath.Dir(e.dir)), "-rw------- /store/agent/locks/model-tiny.lock 0 \n", "")
			if after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// What the choice leaves out is never an error, whatever it is. What is chosen and
// cannot be stored is named, with what to do.
func TestPullUnstorableNames(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	e.push(repoID, fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}"))})
	const oid = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
	entry := func(kind, path string) string {
		return fmt.Sprintf(`{"type":%q,"path":%q,"size":2,"oid":"%s"}`, kind, path, oid)
	}
	entries := []string{entry("file", "config.json")}
	cases := []struct {
		kind, path string
		want       error
		says       string
	}{
		{"file", "odd//x", fetcher.ErrRefused, `"odd//x" is not a clean path inside the model: it has an empty part, or one that is a dot, so it cannot be stored as a file; exclude it, or rename it in the source`},
		{"file", "folder/", fetcher.ErrRefused, "cannot be stored as a file; exclude it"},
		{"file", `odd\x`, fetcher.ErrRefused, "contains a backslash, so it cannot be stored as a file; exclude it"},
		{"file", "config.json/x", fetcher.ErrRefused, `"config.json" is the folder of "config.json/x" as well, so it cannot be stored as a file; exclude it`},
		{"unknown", "submodule", fetcher.ErrRefused, `its entry "submodule" is of the type unknown, neither a file nor a folder; exclude it, `},
		{"file", "../odd", fetcher.ErrCorrupt, "do not trust this source"},
		{"file", "/odd", fetcher.ErrCorrupt, "do not trust this source"},
		{"file", "odd\n", fetcher.ErrCorrupt, "do not trust this source"},
	}
	var patterns []string
	for _, c := range cases {
		entries = append(entries, entry(c.kind, c.path))
		patterns = append(patterns, c.path)
	}
	e.hub.Inject(fetchertest.Fault{
		Match:  fetchertest.Match{Kind: fetchertest.KindTree},
		Effect: fetchertest.Answer(http.StatusOK, nil, "["+strings.Join(entries, ",")+"]"),
	})
	req := request("odd", "")
	for i, c := range cases {
		req.Exclude = slices.Delete(slices.Clone(patterns), i, i+1)
		if _, err := e.fetcher(nil).Pull(t.Context(), req); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v; want %q", c.path, err, c.says)
		}
	}
	req.Exclude = []string{"odd*", "folder/", "config.json/*", "submodule", "../*", "/*"}
	if res := e.mustPull(req); res.Bytes != 2 {
		t.Errorf("pulled %d bytes", res.Bytes)
	}
}

// What is odd and yet no trick comes as it is: on this side of the network the
// names of another system's devices are names, as are those that differ by case.
func TestPullUnusualFiles(t *testing.T) {
	contents := map[string]string{
		"config.json": "{}",
		"CON":         "console", "nul": "null", "NUL.txt": "null too", "aux.json": "a", "COM1": "b", "dev/null": "c", "proc/self/mem": "d",
		"README.md": "upper", "readme.md": "lower", "Readme.MD": "both", "Sub/file": "one", "sub/file": "other",
		"empty.json": "", "sub/also-empty": "",
		"same-1.txt": "the same", "same-2.txt": "the same", "sub/deep/same-3.txt": "the same",
		" space ": "s", "-rf": "r", "~": "t", "$HOME": "h", "*?[x].json": "g", "a;b&c|d": "m", "%2e%2e": "p", "..x": "x", "q?a=b#c": "q", "größe/重み": "ü",
		"current": "k", "blobs/sha256/x": "l", "model.safetensors": "w",
		strings.Repeat("n", 255):                            "long",
		strings.Repeat("d/", (1024-len("file"))/2) + "file": "deep",
	}
	e := newEnv(t, fetchertest.HubOptions{PageSize: 7})
	tree := fetchertest.Tree{}
	for path, content := range contents {
		tree[path] = fetchertest.Bytes([]byte(content))
	}
	commit := e.push(repoID, tree)
	res := e.mustPull(request("odd", ""))
	distinct := map[string]bool{}
	for path, content := range contents {
		distinct[content] = true
		for _, dir := range []string{res.Path, filepath.Join(e.dir, "hub/models--acme--tiny-llama/snapshots", commit)} {
			file := filepath.Join(dir, path)
			if got, err := os.ReadFile(file); err != nil || string(got) != content {
				t.Errorf("%q holds %q, %v; want %q", file, got, err, content)
			}
			if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
				t.Errorf("%q is %v, %v", file, info.Mode(), err)
			}
		}
	}
	asked := 0
	for _, r := range e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindResolve}) {
		if r.Method == http.MethodGet {
			asked++
		}
	}
	if asked != len(distinct)-1 { // nobody has to be asked for no bytes
		t.Errorf("asked %d times for %d contents, one of them empty", asked, len(distinct))
	}
	if got := checkStore(t, e.dir); len(got) != 1 || !got["odd@"+commit] {
		t.Errorf("published %v", got)
	}
	if again := e.mustPull(request("odd", "")); again.DownloadedBytes != 0 {
		t.Errorf("the second pull downloads %d bytes", again.DownloadedBytes)
	}
}
