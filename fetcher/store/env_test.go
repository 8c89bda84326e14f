package store_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	repo    = "hf://acme/tiny"
)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newStore makes a store in a folder of its own, so that there is an outside.
func newStore(t *testing.T) *store.Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "store"))
}

func sumOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func stage(t *testing.T, s *store.Store, name string) *store.Staging {
	t.Helper()
	g, err := s.Stage(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func closeStaging(t *testing.T, g *store.Staging) {
	t.Helper()
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// admit brings content in, as a pull does. It is where it was, if it was here.
func admit(t *testing.T, g *store.Staging, content string) {
	t.Helper()
	sum := sumOf(content)
	err := g.Keep(t.Context(), sum)
	here := false
	if err == nil {
		here, err = g.Has(t.Context(), sum, int64(len(content)), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if here {
		return
	}
	p, err := g.OpenPartial(t.Context(), sum, "sha256:"+sum, int64(len(content)), nil)
	if err == nil {
		err = p.Reset()
	}
	if err == nil {
		_, err = p.WriteAt([]byte(content), 0)
	}
	if err == nil {
		err = p.Sync()
	}
	if err == nil {
		err = g.Admit(t.Context(), p, sum, "sha256:"+sum)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func manifest(name, source, revision string, files map[string]string) store.Manifest {
	m := store.Manifest{Name: name, Source: source, Revision: revision, PublishedAt: time.Now()}
	for path, content := range files {
		m.Bytes += int64(len(content))
		m.Files = append(m.Files, store.ManifestFile{Path: path, Size: int64(len(content)), SHA256: sumOf(content), VouchedBy: "sha256:" + sumOf(content)})
	}
	slices.SortFunc(m.Files, func(a, b store.ManifestFile) int { return cmp.Compare(a.Path, b.Path) })
	return m
}

// publish pulls a model, as far as a store sees it.
func publish(t *testing.T, s *store.Store, name, source, revision string, files map[string]string) store.Manifest {
	t.Helper()
	g := stage(t, s, name)
	defer closeStaging(t, g)
	for _, content := range files {
		admit(t, g, content)
	}
	m := manifest(name, source, revision, files)
	if err := g.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

var tiny = map[string]string{"config.json": "{}", "sub/deep/tokenizer.json": "tokens", "model.safetensors": "weights", "copy.safetensors": "weights"}

// checkFiles reads a directory's files by their links.
func checkFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		rel, relErr := filepath.Rel(dir, path)
		got[rel] = string(content)
		return errors.Join(err, relErr)
	})
	if err != nil {
		t.Error(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

func hubDir(s *store.Store, path string) string {
	return filepath.Join(s.Dir(), "hub", "models--acme--tiny", path)
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return err == nil
}

// published names what the store says, as NAME@REVISION.
func published(t *testing.T, s *store.Store) string {
	t.Helper()
	all, err := s.Published()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range all {
		names = append(names, m.Name+"@"+m.Revision)
	}
	return strings.Join(names, " ")
}

func withdrawn(t *testing.T, s *store.Store) string {
	t.Helper()
	all, err := s.Withdrawn()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range all {
		names = append(names, m.Name+"@"+m.Revision)
	}
	return strings.Join(names, " ")
}

func gc(t *testing.T, s *store.Store, olderThan time.Duration) store.GCResult {
	t.Helper()
	res, err := s.GC(t.Context(), olderThan)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// snapshot lists everything below dir: paths, modes, sizes, times, targets.
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
			target, err = os.Readlink(path)
		}
		fmt.Fprintf(&b, "%s %s %d %d %s\n", info.Mode(), strings.TrimPrefix(path, dir), info.Size(), info.ModTime().UnixNano(), target)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}
