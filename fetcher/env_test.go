package fetcher_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/store"
)

const repoID = "acme/tiny-llama"

// env is a Hub stand-in and a store that is pulled into.
type env struct {
	t   *testing.T
	hub *fetchertest.Hub
	dir string
	hf  *hf.Driver
}

func newEnv(t *testing.T, o fetchertest.HubOptions) *env {
	t.Helper()
	e := &env{t: t, hub: fetchertest.StartHub(t, o), dir: filepath.Join(t.TempDir(), "store")}
	e.newDriver()
	return e
}

// newDriver makes a driver that knows nothing of the one before.
func (e *env) newDriver() {
	e.t.Helper()
	driver, err := hf.New(hf.Options{Endpoint: e.hub.URL()})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(driver.CloseIdleConnections)
	e.hf = driver
}

func (e *env) store() *store.Store {
	e.t.Helper()
	s, err := store.Open(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

// fetcher makes an engine of its own, as another process would have.
func (e *env) fetcher(change func(*fetcher.Options)) *fetcher.Fetcher {
	e.t.Helper()
	o := fetcher.Options{
		Store: e.store(), Logger: slog.New(slog.DiscardHandler), StallTimeout: 10 * time.Second,
		Drivers: fetcher.Drivers{fetcher.SchemeHub: func(fetcher.Access) (fetcher.Driver, error) { return e.hf, nil }},
	}
	if change != nil {
		change(&o)
	}
	return fetcher.New(o)
}

func (e *env) push(repo string, tree fetchertest.Tree) string {
	e.t.Helper()
	commit, err := e.hub.Push(e.t.Context(), repo, "main", tree)
	if err != nil {
		e.t.Fatal(err)
	}
	return commit
}

func hubSource(repo, revision string) fetcher.Source {
	return fetcher.Source{Scheme: fetcher.SchemeHub, Path: repo, Revision: revision}
}

func request(name, revision string) fetcher.Request {
	return fetcher.Request{Name: name, Source: hubSource(repoID, revision)}
}

func (e *env) mustPull(req fetcher.Request) fetcher.Result {
	e.t.Helper()
	res, err := e.fetcher(nil).Pull(e.t.Context(), req)
	if err != nil {
		e.t.Fatal(err)
	}
	return res
}

// random is content that is the same for the same seed.
func random(seed uint64, size int) []byte {
	b := make([]byte, size)
	chacha := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = chacha.Read(b) // never fails
	return b
}

// bigTree is two weight files and two small ones.
func bigTree(seed uint64, size int) fetchertest.Tree {
	return fetchertest.Tree{
		"config.json":                      fetchertest.Bytes(fmt.Appendf(nil, `{"seed": %d}`, seed)),
		"sub/tokenizer.json":               fetchertest.Bytes([]byte("{}")),
		"model-00001-of-00002.safetensors": fetchertest.Bytes(random(seed, size)),
		"model-00002-of-00002.safetensors": fetchertest.Bytes(random(seed+100, size/2)),
	}
}

func generate(t *testing.T, spec fetchertest.ModelSpec) fetchertest.Tree {
	t.Helper()
	tree, err := fetchertest.GenerateModel(spec)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func treeBytes(tree fetchertest.Tree) int64 {
	var n int64
	for _, c := range tree {
		n += c.Size()
	}
	return n
}

// chosen is the part of a tree that a pull takes.
func chosen(t *testing.T, tree fetchertest.Tree, include ...string) fetchertest.Tree {
	t.Helper()
	var files []fetcher.File
	for path := range tree {
		files = append(files, fetcher.File{Path: path})
	}
	selected, err := fetcher.Select(files, fetcher.Choice{Include: include}, nil)
	if err != nil {
		t.Fatal(err)
	}
	part := fetchertest.Tree{}
	for _, f := range selected {
		part[f.Path] = tree[f.Path]
	}
	return part
}

// checkModel holds what is below dir against a tree, byte by byte.
func checkModel(t *testing.T, dir string, want fetchertest.Tree) {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		paths = append(paths, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		content, ok := want[p]
		if !ok {
			t.Errorf("%s was not asked for", p)
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			t.Error(err)
			continue
		}
		sum := sha256.Sum256(data)
		if wantSum, err := content.SHA256(); err != nil || hex.EncodeToString(sum[:]) != wantSum {
			t.Errorf("%s has other bytes (%v)", p, err)
		}
	}
	for p := range want {
		if !slices.Contains(paths, p) {
			t.Errorf("%s is missing", p)
		}
	}
}

// snapshot lists everything below dir: paths, modes, sizes, link targets.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		size := info.Size()
		if d.IsDir() {
			size = 0
		}
		fmt.Fprintf(&b, "%s %s %d %s\n", info.Mode(), strings.TrimPrefix(path, dir), size, target)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// waitFor polls until cond holds.
func waitFor(ctx context.Context, t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func alwaysAdmit(context.Context, int64) error { return nil }

func itoa(n int) string { return strconv.Itoa(n) }

// fill takes all the room that is left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return f.Close()
}
