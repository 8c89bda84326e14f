package ordeal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// manifest is what pods may rely on of a published manifest.
type manifest struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
	Files    []struct {
		Path   string `json:"path"`
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
	} `json:"files"`
}

// Reader reads a store as a pod does, and remembers what it has hashed: the
// kernel changes the ctime of whatever is written to, and nobody can set it.
type Reader struct {
	dir string

	mu     sync.Mutex
	hashed map[string]hashed // by path
}

type hashed struct {
	ino          uint64
	size         int64
	ctime, mtime syscall.Timespec
	sum          string
}

// NewReader makes one of a store that need not be there yet.
func NewReader(dir string) *Reader { return &Reader{dir: dir, hashed: map[string]hashed{}} }

// Forget is for another file system in the same place.
func (r *Reader) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.hashed)
}

// Sum hashes a regular file.
func (r *Reader) Sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	now := hashed{ino: st.Ino, size: st.Size, ctime: st.Ctim, mtime: st.Mtim}
	r.mu.Lock()
	before, known := r.hashed[path]
	r.mu.Unlock()
	if known {
		now.sum = before.sum
		if now == before {
			return before.sum, nil
		}
	}
	h := sha256.New()
	began := time.Now()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	now.sum = hex.EncodeToString(h.Sum(nil))
	// A write in the same tick of the file system's clock would not show.
	if began.Sub(time.Unix(st.Ctim.Unix())) > 100*time.Millisecond {
		r.mu.Lock()
		r.hashed[path] = now
		r.mu.Unlock()
	}
	return now.sum, nil
}

// Manifests lists the manifest files of a model, or of all ("").
func (r *Reader) Manifests(name string) ([]string, error) {
	if name == "" {
		name = "*"
	}
	paths, err := filepath.Glob(filepath.Join(r.dir, "manifests", name, "*.json"))
	return slices.DeleteFunc(paths, func(p string) bool { return strings.HasPrefix(filepath.Base(p), ".") }), err
}

// Revision finds the manifest that a rev label means.
func (r *Reader) Revision(name, short string) (string, error) {
	paths, err := r.Manifests(name)
	if err != nil {
		return "", err
	}
	for _, p := range paths {
		if short != "" && strings.HasPrefix(filepath.Base(p), short) {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no manifest of %s at %q", name, short)
}

// Check says why the revision that a manifest publishes is not completely there
// with the right bytes; commits say what is right.
func (r *Reader) Check(path string, s *Source) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	name, revision := filepath.Base(filepath.Dir(path)), strings.TrimSuffix(filepath.Base(path), ".json")
	if m.Name != name || m.Revision != revision {
		return fmt.Errorf("%s says that it is %s@%s", path, m.Name, m.Revision)
	}
	right := s.Files(revision)
	if right == nil {
		return fmt.Errorf("%s is of a commit that never was", path)
	}
	here := map[string]bool{}
	for _, f := range m.Files {
		here[f.Path] = true
		if want := right[f.Path]; want.SHA256 != f.SHA256 || want.Size != f.Size {
			return fmt.Errorf("%s lists %s with %d bytes and sha256 %s; pushed were %d with %s", path, f.Path, f.Size, f.SHA256, want.Size, want.SHA256)
		}
		if err := r.CheckFile(filepath.Join(r.dir, "models", name, revision, f.Path), f.SHA256, f.Size); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(right)) {
		if !here[p] && !strings.HasPrefix(filepath.Base(p), ".") {
			return fmt.Errorf("%s does not list %s", path, p)
		}
	}
	return nil
}

// CheckFile follows a model's link to its blob and reads every byte.
func (r *Reader) CheckFile(link, sum string, size int64) error {
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	if filepath.IsAbs(target) {
		return fmt.Errorf("%s is an absolute link: %s", link, target)
	}
	blob, err := filepath.EvalSymlinks(link)
	if err != nil {
		return err
	}
	want, err := filepath.EvalSymlinks(filepath.Join(r.dir, "blobs", "sha256"))
	if err != nil {
		return err
	}
	if filepath.Dir(blob) != want {
		return fmt.Errorf("%s leads to %s", link, blob)
	}
	info, err := os.Lstat(blob)
	if err != nil {
		return err
	}
	if info.Size() != size {
		return fmt.Errorf("%s has %d bytes, should have %d", link, info.Size(), size)
	}
	got, err := r.Sum(blob)
	if err != nil {
		return err
	}
	if got != sum {
		return fmt.Errorf("%s holds bytes with sha256 %s, should be %s", link, got, sum)
	}
	return nil
}

// Blobs are the contents in the store by name, right or not.
func (r *Reader) Blobs() (map[string]bool, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "blobs", "sha256"))
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, e := range entries {
		out[e.Name()] = true
	}
	return out, nil
}
