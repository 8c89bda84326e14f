package s3_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// putByHand writes files into a bucket beside the server, which then lists no ETags
// for them.
func (s *server) putByHand(t *testing.T, bucket, prefix string, files map[string][]byte) fetcher.Source {
	t.Helper()
	for path, content := range files {
		path = filepath.Join(s.root, bucket, prefix, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return source(bucket, prefix)
}

// Size and time pin what has no ETag, as they pin a file:// source.
func TestFilesPutByHand(t *testing.T) {
	s := startServer(t)
	fetchertest.TestDriver(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
		t.Helper()
		bucket := s.newBucket(t)
		f := s.fixture(s.driver(t, "", s3.Options{}), s.putByHand(t, bucket, "llama", files), "llama")
		f.Digests, f.ChangedWhileReading = false, true
		f.Change = func(t *testing.T, path string, content []byte) {
			t.Helper()
			// In place, so that what is being read changes as well; answers have whole seconds.
			s.putByHand(t, bucket, "llama", map[string][]byte{path: content})
			later := time.Now().Add(3 * time.Second)
			if err := os.Chtimes(filepath.Join(s.root, bucket, "llama", path), later, later); err != nil {
				t.Fatal(err)
			}
		}
		return f
	})
}

func TestPullFilesPutByHand(t *testing.T) {
	s := startServer(t)
	bucket := s.newBucket(t)
	files := model()
	p := &puller{dir: filepath.Join(t.TempDir(), "store"), driver: s.driver(t, "", s3.Options{}), src: s.putByHand(t, bucket, "llama", files)}
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
}
