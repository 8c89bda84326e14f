//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// shards is how many safetensors files a model has.
const shards = 4

// file is one file of the model, as it must land.
type file struct {
	path   string
	size   int64
	sha256 string
}

// writeModel generates a model of about size bytes below dir, so that the
// server can send it from files, which costs it least.
func writeModel(ctx context.Context, dir string, seed uint64, size int64) ([]file, error) {
	spec := fetchertest.SpecOfSize(seed, size, shards)
	spec.Bare = true // what all contenders would take
	tree, err := fetchertest.GenerateModel(spec)
	if err != nil {
		return nil, err
	}
	delete(tree, ".gitattributes") // the Hub's client takes it, and no other
	group, ctx := errgroup.WithContext(ctx)
	files := make([]file, 0, len(tree))
	for path := range tree {
		files = append(files, file{path: path, size: tree[path].Size()})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	for i := range files {
		group.Go(func() error {
			f := &files[i]
			sum, err := writeFile(ctx, filepath.Join(dir, filepath.FromSlash(f.path)), tree[f.path].Reader())
			f.sha256 = sum
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("write the model: %w", err)
	}
	return files, nil
}

// writeFile returns the sha256 of what it wrote.
func writeFile(ctx context.Context, path string, from io.Reader) (sum string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	to := bufio.NewWriterSize(io.MultiWriter(f, hash), 1<<20)
	if _, err := io.Copy(to, &ended{ctx, from}); err != nil {
		return "", err
	}
	if err := to.Flush(); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// ended is a reader that ends with ctx.
type ended struct {
	ctx  context.Context //nolint:containedctx // of one copy
	from io.Reader
}

// Read implements io.Reader.
func (e *ended) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.from.Read(p)
}

// total is the bytes of all files.
func total(files []file) int64 {
	var n int64
	for _, f := range files {
		n += f.size
	}
	return n
}

// check says whether the model landed: every file there with its size, and if
// deep with its sha256.
func check(ctx context.Context, files []file, at func(path string) string, deep bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, f := range files {
		group.Go(func() error {
			info, err := os.Stat(at(f.path))
			if err != nil {
				return err
			}
			if info.Size() != f.size {
				return fmt.Errorf("%s landed with %d bytes of %d", f.path, info.Size(), f.size)
			}
			if !deep {
				return nil
			}
			landed, err := os.Open(at(f.path))
			if err != nil {
				return err
			}
			defer landed.Close()
			hash := sha256.New()
			if _, err := io.Copy(hash, &ended{ctx, landed}); err != nil {
				return err
			}
			if got := hex.EncodeToString(hash.Sum(nil)); got != f.sha256 {
				return fmt.Errorf("%s landed with sha256 %s, want %s", f.path, got, f.sha256)
			}
			return nil
		})
	}
	return group.Wait()
}
