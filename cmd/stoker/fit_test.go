package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/gpu"
)

// TestFitReadsNoWeights: what the Hub sends for the answer is the front of the
// files, whatever their size.
func TestFitReadsNoWeights(t *testing.T) {
	hub := fetchertest.NewHub(fetchertest.HubOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	if err := hub.Listen(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- hub.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("HF_ENDPOINT", hub.URL())
	t.Setenv("HF_TOKEN", "")

	const shards = 3
	tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(5, 64<<20, shards))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Push(ctx, "org/big", "main", tree); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "fit", "hf://org/big", "--gpus", "none", "-o", "json", "--store", t.TempDir())
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var got struct {
		WeightsBytes int64 `json:"weightsBytes"`
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.WeightsBytes < 60<<20 {
		t.Fatalf("weights of %d bytes, %v", got.WeightsBytes, err)
	}
	const redirect = 1 << 10
	for _, m := range []struct {
		file string
		most int64
	}{
		{"*.safetensors", shards * (firstPiece + redirect)},
		{"config.json", firstPiece},
		{"*.index.json", firstPiece},
		{"tokenizer.json", 0},
		{"*.bin", 0},
	} {
		sent := hub.BytesSent(fetchertest.Match{Method: "GET", File: m.file})
		if sent > m.most || (sent == 0) != (m.most == 0) {
			t.Errorf("%s: %d bytes were sent; want at most %d", m.file, sent, m.most)
		}
	}
}

// asked is a driver that serves files from memory and remembers which ranges it
// was asked for.
type asked struct {
	files  map[string][]byte
	ranges map[string][][2]int64
}

func (a *asked) List(context.Context, fetcher.Source) (fetcher.Listing, error) {
	return fetcher.Listing{}, errors.New("not asked here")
}

func (a *asked) Open(_ context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	if err := obj.File.CheckRange(offset, length); err != nil {
		return nil, err
	}
	a.ranges[obj.File.Path] = append(a.ranges[obj.File.Path], [2]int64{offset, length})
	return io.NopCloser(bytes.NewReader(a.files[obj.File.Path][offset : offset+length])), nil
}

// TestSourceFilesComeInPieces: however much is read, at most twice of it is asked
// for, in pieces without gaps, and all of them together are the file.
func TestSourceFilesComeInPieces(t *testing.T) {
	content := make([]byte, 40<<20+123)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	a := &asked{files: map[string][]byte{"empty": {}, "short": content[:10], "exact": content[:firstPiece], "long": content}, ranges: map[string][][2]int64{}}
	var listing fetcher.Listing
	for name, data := range a.files {
		listing.Files = append(listing.Files, fetcher.File{Path: name, Size: int64(len(data))})
	}
	fsys := newSourceFS(t.Context(), a, fetcher.Source{}, listing)
	for name, data := range a.files {
		got, err := fs.ReadFile(fsys, name)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(data))
		}
	}
	for _, read := range []int64{0, 1, firstPiece, firstPiece + 1, 1 << 20, 20 << 20} {
		clear(a.ranges)
		f, err := fsys.Open("long")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, f, read); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		var end int64
		for _, r := range a.ranges["long"] {
			if r[0] != end || r[1] < 1 || r[1] > largestPiece {
				t.Errorf("%d bytes read: ranges %v", read, a.ranges["long"])
			}
			end = r[0] + r[1]
		}
		if end > max(firstPiece, 2*read) {
			t.Errorf("%d bytes read, %d asked for", read, end)
		}
	}
}

func TestAlikeGPUs(t *testing.T) {
	devices := []gpu.Device{
		{Index: 0, Name: "a", TotalBytes: 2, FreeBytes: 2},
		{Index: 1, Name: "a", TotalBytes: 2, FreeBytes: 1},
		{Index: 2, Name: "a", TotalBytes: 2, FreeBytes: 2},
		{Index: 3, Name: "a", TotalBytes: 2, FreeBytes: 2},
		{Index: 5, Name: "a", TotalBytes: 2, FreeBytes: 2},
		{Index: 6, Name: "b", TotalBytes: 2, FreeBytes: 2},
		{Index: 7, Name: "b", TotalBytes: 1, FreeBytes: 1, MIG: &gpu.MIG{Index: 0}},
		{Index: 7, Name: "b", TotalBytes: 1, FreeBytes: 1, MIG: &gpu.MIG{Index: 1}},
	}
	var got []string
	for _, group := range alikeGPUs(devices) {
		got = append(got, gpuNumbers(devices, group))
	}
	if text := strings.Join(got, " "); text != "0,2-3,5 1 6 7.0,7.1" {
		t.Errorf("%s", text)
	}
}
