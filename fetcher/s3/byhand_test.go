package s3_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// Files that were put beside the server, which then lists no ETag for them: size and
// time pin them.
func TestFilesPutByHand(t *testing.T) {
	s := startServer(t)
	bucket := s.newBucket(t)
	dir := filepath.Join(s.root, bucket, "llama")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := model()
	delete(files, "sub/tokenizer.json")
	for path, content := range files {
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	p := &puller{dir: filepath.Join(t.TempDir(), "store"), driver: d, src: source(bucket, "llama")}
	res, err := p.pull(t.Context(), t, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, res.Path, files)
	if again, err := p.pull(t.Context(), t, nil); err != nil || again.DownloadedBytes != 0 || again.Revision != res.Revision {
		t.Errorf("again: %+v, %v", again, err)
	}
	m, err := p.manifest(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files {
		if !strings.HasPrefix(f.Version, "modified ") || f.VouchedBy != "" {
			t.Errorf("%s has the version %q and is vouched for by %q", f.Path, f.Version, f.VouchedBy)
		}
	}

	// One that is replaced under the transfer is refused, and is taken when listed again.
	obj := fetchertest.ObjectOf(t, d, p.src, "config.json")
	path := filepath.Join(dir, "config.json")
	files["config.json"] = []byte(`{"model_type": "qwen2"}`)
	if err := os.WriteFile(path, files["config.json"], 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(3 * time.Second)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	_, err = d.Open(t.Context(), obj, 0, obj.File.Size)
	wantKind(t, err, fetcher.ErrRefused, "config.json", "replaced since it was listed")
	_, err = d.Vouch(t.Context(), obj)
	wantKind(t, err, fetcher.ErrRefused, "config.json", "replaced since it was listed")
	if res, err = p.pull(t.Context(), t, nil); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, res.Path, files)
}
