package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// bucket is a server that knows just enough of S3 and of Google Cloud Storage for
// a model to be looked at, and counts what it sends of weights.
type bucket struct {
	files fetchertest.Tree
	sent  atomic.Int64
}

const bucketTag = `"an-etag"`

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, key, found := strings.Cut(r.URL.Path, "/b/models/o") // Google's way
	if !found {
		key = strings.TrimPrefix(r.URL.Path, "/models")
	}
	if key = strings.TrimPrefix(key, "/"); key == "" {
		b.list(w, found)
		return
	}
	file, ok := b.files[key]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", bucketTag)
	w.Header().Set("X-Goog-Generation", "1")
	w.Header().Set("Content-Type", "application/octet-stream")
	if strings.HasSuffix(key, ".safetensors") {
		w = counting{w, &b.sent}
	}
	http.ServeContent(w, r, "", time.Time{}, file.Reader())
}

func (b *bucket) list(w http.ResponseWriter, google bool) {
	type object struct {
		Key  string `json:"name"`
		Size string `json:"size"`
		ETag string `json:"etag"`
		// Generation is Google's.
		Generation string `json:"generation" xml:"-"`
	}
	var objects []object
	for name, content := range b.files {
		objects = append(objects, object{name, strconv.FormatInt(content.Size(), 10), bucketTag, "1"})
	}
	if google {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "storage#objects", "items": objects})
		return
	}
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		Name        string
		IsTruncated bool
		Contents    []object
	}{Name: "models", Contents: objects})
}

type counting struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// TestFitReadsNoWeightsFromBuckets is TestFitReadsNoWeights for the other kinds of
// sources that are far away.
func TestFitReadsNoWeightsFromBuckets(t *testing.T) {
	const shards = 3
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(6, 64<<20, shards))
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"s3", "gs"} {
		t.Run(scheme, func(t *testing.T) {
			b := &bucket{files: tree}
			server := httptest.NewServer(b)
			t.Cleanup(server.Close)
			for name, value := range map[string]string{
				"AWS_ENDPOINT_URL": server.URL, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
				"AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
				"STORAGE_EMULATOR_HOST": server.URL,
			} {
				t.Setenv(name, value)
			}
			code, stdout, stderr := call(t, "fit", scheme+"://models", "--gpus", "none", "-o", "json", "--store", t.TempDir())
			if code != exitOK {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			var got struct {
				WeightsBytes int64 `json:"weightsBytes"`
			}
			if err := json.NewDecoder(bytes.NewReader([]byte(stdout))).Decode(&got); err != nil || got.WeightsBytes < 60<<20 {
				t.Fatalf("weights of %d bytes, %v", got.WeightsBytes, err)
			}
			if sent := b.sent.Load(); sent == 0 || sent > shards*firstPiece {
				t.Errorf("%d bytes of weight files were sent; want at most %d", sent, shards*firstPiece)
			}
		})
	}
}
