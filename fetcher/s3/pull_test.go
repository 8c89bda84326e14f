package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
	"github.com/stoker-project/stoker/fetcher/store"
)

const weights = "model.safetensors"

// model is a small model whose weights take several buffers.
func model() map[string][]byte {
	content := make([]byte, 5<<20+123)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	return map[string][]byte{"config.json": []byte(`{"model_type": "llama"}`), weights: content, "sub/tokenizer.json": []byte("{}")}
}

// puller pulls with a driver into one store.
type puller struct {
	dir    string
	driver fetcher.Driver
	src    fetcher.Source
	jobs   int // 0: the default
}

func (p *puller) pull(ctx context.Context, t *testing.T, change func(*fetcher.Request)) (fetcher.Result, error) {
	t.Helper()
	s, err := store.Open(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	f := fetcher.New(fetcher.Options{
		Store: s, Logger: slog.New(slog.DiscardHandler), StallTimeout: 10 * time.Second, Jobs: p.jobs,
		Drivers: fetcher.Drivers{fetcher.SchemeS3: func(fetcher.Access) (fetcher.Driver, error) { return p.driver, nil }},
	})
	req := fetcher.Request{Name: "llama", Source: p.src}
	if change != nil {
		change(&req)
	}
	return f.Pull(ctx, req)
}

func (p *puller) manifest(t *testing.T) (store.Manifest, error) {
	t.Helper()
	s, err := store.OpenReadOnly(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lookup("llama")
}

func newPuller(t *testing.T, s *server, files map[string][]byte, how ...upload) *puller {
	t.Helper()
	return &puller{
		dir:    filepath.Join(t.TempDir(), "store"),
		driver: newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{}),
		src:    s.fill(t, "team/llama", files, how...),
	}
}

func checkFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for path, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v; want %d", path, len(got), err, len(want))
		}
	}
}

func TestPull(t *testing.T) {
	s := startServer(t)
	fetchertest.TestPull(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
		t.Helper()
		return s.fixture(newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{}), s.fill(t, "llama", files), "llama")
	})
}

// What vouches is recorded, and not asked for again.
func TestPullVouches(t *testing.T) {
	s := startServer(t)
	files := model()
	p := newPuller(t, s, files, withChecksum(types.ChecksumAlgorithmCrc64nvme))
	res, err := p.pull(t.Context(), t, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, res.Path, files)
	m, err := p.manifest(t)
	if err != nil || len(m.Files) != len(files) {
		t.Fatalf("%d files are published, %v", len(m.Files), err)
	}
	for _, f := range m.Files {
		if !strings.HasPrefix(f.VouchedBy, "crc64nvme:") || f.Version == "" {
			t.Errorf("%s is vouched for by %q at version %q", f.Path, f.VouchedBy, f.Version)
		}
	}

	// Once more: one list, and nothing else.
	s.proxy.ResetLog()
	if res, err := p.pull(t.Context(), t, nil); err != nil || res.DownloadedBytes != 0 {
		t.Errorf("downloaded %d bytes again, %v", res.DownloadedBytes, err)
	}
	if n := len(s.proxy.Requests(fetchertest.Match{})); n != 1 {
		t.Errorf("%d requests for what is here, want 1", n)
	}
}

// Only what is chosen is asked about.
func TestPullVouchesForChosen(t *testing.T) {
	s := startServer(t)
	p := newPuller(t, s, model())
	_, err := p.pull(t.Context(), t, func(r *fetcher.Request) { r.Include = []string{"*.json"} })
	if err != nil {
		t.Fatal(err)
	}
	heads := s.proxy.Requests(fetchertest.Match{Method: http.MethodHead})
	if len(heads) != 2 {
		t.Errorf("%d objects were asked about, want 2", len(heads))
	}
}

// Two files with the same CRC32C are two: a checksum is no identity.
func TestPullCollidingChecksums(t *testing.T) {
	s := startServer(t)
	// CRC32C is linear: any four bytes can be made to fit.
	a, b := []byte("the first file's bytes    "), []byte("and those of the second   ")
	b = forge(b, crc32c(a))
	if crc32c(a) != crc32c(b) || bytes.Equal(a, b) {
		t.Fatal("no collision")
	}
	files := map[string][]byte{"config.json": a, "generation_config.json": b}
	p := newPuller(t, s, files, withChecksum(types.ChecksumAlgorithmCrc32c))
	res, err := p.pull(t.Context(), t, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, res.Path, files)
}

// Each algorithm finds a wrong byte, and what comes right the second time is
// taken.
func TestPullEachChecksum(t *testing.T) {
	s := startServer(t)
	for algorithm, want := range map[types.ChecksumAlgorithm]string{
		types.ChecksumAlgorithmSha256: "sha256", types.ChecksumAlgorithmCrc64nvme: "crc64nvme", types.ChecksumAlgorithmCrc32c: "crc32c",
		types.ChecksumAlgorithmCrc32: "crc32", types.ChecksumAlgorithmSha1: "md5",
	} {
		t.Run(want, func(t *testing.T) {
			files := model()
			p := newPuller(t, s, files, withChecksum(algorithm))
			wrong := fetchertest.Fault{Match: fetchertest.Match{Method: http.MethodGet, File: "*/" + weights}, Effect: fetchertest.WrongByte(2<<20 + 5)}
			s.proxy.ResetLog()
			heal := s.proxy.Inject(wrong)
			_, err := p.pull(t.Context(), t, nil)
			heal()
			wantKind(t, err, fetcher.ErrCorrupt, weights, want)
			if n := len(s.proxy.Requests(wrong.Match)); n != 2 {
				t.Errorf("it was fetched %d times, want 2", n)
			}
			if _, err := p.manifest(t); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("after that, the manifest is there: %v", err)
			}

			wrong.Times = 1 // wrong once is right the second time
			defer s.proxy.Inject(wrong)()
			res, err := p.pull(t.Context(), t, nil)
			if err != nil {
				t.Fatal(err)
			}
			checkFiles(t, res.Path, files)
		})
	}
}

// A bucket of more objects than one answer lists.
func TestTenThousandObjects(t *testing.T) {
	// Written beside the server, which then knows no ETag for them: uploading so
	// many takes half a minute.
	s := startServer(t, "--default-etag", `"written-beside-the-server"`)
	bucket := s.newBucket(t)
	const count = 10_000
	dir := filepath.Join(s.root, bucket, "llama")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("part-%05d.json", i)), fmt.Appendf(nil, "%d", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	p := &puller{dir: filepath.Join(t.TempDir(), "store"), driver: d, src: source(bucket, "llama")}
	l, err := d.List(t.Context(), p.src)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range l.Files {
		seen[f.Path] = true
	}
	if len(l.Files) != count || len(seen) != count {
		t.Errorf("%d objects are listed, %d of them different", len(l.Files), len(seen))
	}
	if n := len(s.proxy.Requests(fetchertest.Match{})); n != count/1000 {
		t.Errorf("listed in %d answers", n)
	}
	res, err := p.pull(t.Context(), t, func(r *fetcher.Request) { r.Include = []string{"*99.json"} })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for i := 99; i < count; i += 100 {
		want[fmt.Sprintf("part-%05d.json", i)] = fmt.Appendf(nil, "%d", i)
	}
	checkFiles(t, res.Path, want)
	m, err := p.manifest(t)
	if err != nil || len(m.Files) != len(want) {
		t.Errorf("%d files are published, %v; want %d", len(m.Files), err, len(want))
	}
}
