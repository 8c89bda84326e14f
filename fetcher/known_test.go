package fetcher_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/file"
	"github.com/stoker-project/stoker/fetcher/store"
)

// One engine pulls all along, and knows what others have done to the store meanwhile.
// The files share no sha256 of the Hub's, so that only manifests tell of them.
func TestPullKnowsWhatOthersPublished(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	f := e.fetcher(nil)
	pull := func(f *fetcher.Fetcher, name, repo string, want int64) {
		t.Helper()
		res, err := f.Pull(t.Context(), fetcher.Request{Name: name, Source: hubSource(repo, "")})
		if err != nil {
			t.Fatal(err)
		}
		if res.DownloadedBytes != want {
			t.Errorf("%s: downloaded %d bytes, want %d", name, res.DownloadedBytes, want)
		}
	}
	tree := func(texts ...string) fetchertest.Tree {
		out := fetchertest.Tree{"model.safetensors": fetchertest.Bytes(random(1, 1000))}
		for _, text := range texts {
			out[text+".json"] = fetchertest.Bytes([]byte(text))
		}
		return out
	}
	e.push("acme/one", tree("one"))
	e.push("acme/two", tree("two"))
	e.push("acme/both", tree("one", "two"))
	e.push("acme/more", tree("one", "two", "three"))
	e.push("acme/all", tree("one", "two", "three", "four"))
	pull(f, "one", "acme/one", 1003)
	pull(e.fetcher(nil), "two", "acme/two", 3)
	pull(f, "both", "acme/both", 0)

	// Another process was killed when it had published, so that no generation is known.
	link := filepath.Join(e.dir, "agent", "generation")
	before, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	pull(e.fetcher(nil), "more", "acme/more", 5)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(before+"~", link); err != nil {
		t.Fatal(err)
	}
	pull(f, "all", "acme/all", 4)
	if e.store().Generation() == "" {
		t.Error("a publication leaves the generation unknown")
	}

	// What is removed and collected is fetched anew.
	for _, name := range []string{"more", "all"} {
		if err := e.store().Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.store().GC(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	pull(f, "all", "acme/all", 9)
	checkModel(t, e.store().Path("all", e.hubCommit("acme/all")), tree("one", "two", "three", "four"))
	checkStore(t, e.dir)
}

// hubCommit is what the store has of a repository.
func (e *env) hubCommit(repo string) string {
	e.t.Helper()
	published, err := e.store().Published()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, m := range published {
		if m.Source == "hf://"+repo {
			return m.Revision
		}
	}
	e.t.Fatalf("nothing of %s is published", repo)
	return ""
}

// What one pull costs beside so many models that are published: the same, by the index.
func BenchmarkPullBesideModels(b *testing.B) {
	for _, models := range []int{100, 1000} {
		b.Run(fmt.Sprint(models), func(b *testing.B) {
			s, err := store.Open(filepath.Join(b.TempDir(), "store"))
			if err != nil {
				b.Fatal(err)
			}
			f := fetcher.New(fetcher.Options{
				Store: s, Logger: slog.New(slog.DiscardHandler),
				Drivers: fetcher.Drivers{fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return file.New(), nil }},
			})
			dirs := b.TempDir()
			made := 0
			pull := func() {
				made++
				name := fmt.Sprintf("m-%d", made)
				dir := filepath.Join(dirs, name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				for i := range 10 {
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), fmt.Appendf(nil, "%d of %s", i, name), 0o644); err != nil {
						b.Fatal(err)
					}
				}
				req := fetcher.Request{Name: name, Source: fetcher.Source{Scheme: fetcher.SchemeFile, Path: dir}, Include: []string{"*"}}
				if _, err := f.Pull(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
			for range models {
				pull()
			}
			for b.Loop() {
				pull()
			}
		})
	}
}
