package fetcher_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkStore looks at a store with eyes of its own, not with the store's: what
// is published is complete and right, current and the hub view lead to it, no
// blob is false, nothing leads out of the store, and all of it can be read by
// anybody. It returns the published revisions as NAME@REVISION.
func checkStore(t *testing.T, dir string) map[string]bool {
	t.Helper()
	c := &checker{t: t, dir: dir, published: map[string]bool{}, named: map[string]bool{}}
	var err error
	if c.real, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	c.blobs()
	c.manifests()
	c.currents()
	c.hub()
	c.modes()
	return c.published
}

type checker struct {
	t         *testing.T
	dir, real string
	published map[string]bool
	named     map[string]bool // content that manifests name
}

func (c *checker) glob(pattern string) []string {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.dir, pattern))
	if err != nil {
		c.t.Fatal(err)
	}
	return paths
}

func sumOf(t *testing.T, path string) (string, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return "", 0
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Error(err)
	}
	return hex.EncodeToString(h.Sum(nil)), n
}

func (c *checker) blobs() {
	c.t.Helper()
	for _, path := range c.glob("blobs/sha256/*") {
		if sum, _ := sumOf(c.t, path); sum != filepath.Base(path) {
			c.t.Errorf("blob %s holds %s", filepath.Base(path), sum)
		}
	}
}

// inside resolves a link and makes sure that it stays in the store.
func (c *checker) inside(path string) string {
	c.t.Helper()
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		c.t.Error(err)
		return ""
	}
	if !strings.HasPrefix(target, c.real+"/") {
		c.t.Errorf("%s leads to %s, out of the store", path, target)
	}
	return target
}

func (c *checker) manifests() {
	c.t.Helper()
	for _, path := range c.glob("manifests/*/*.json") {
		if strings.HasPrefix(filepath.Base(path), ".") {
			continue
		}
		var m struct {
			Name, Revision string
			Bytes          int64
			Files          []struct {
				Path, SHA256 string
				Size         int64
			}
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil {
			c.t.Errorf("manifest %s: %v", path, err)
			continue
		}
		name, revision := filepath.Base(filepath.Dir(path)), strings.TrimSuffix(filepath.Base(path), ".json")
		if m.Name != name || m.Revision != revision || len(m.Files) == 0 {
			c.t.Errorf("manifest %s is of %s@%s and has %d files", path, m.Name, m.Revision, len(m.Files))
		}
		c.published[name+"@"+revision] = true
		var total int64
		for _, f := range m.Files {
			c.named[f.SHA256] = true
			link := filepath.Join(c.dir, "models", name, revision, f.Path)
			if c.inside(link) == "" {
				continue
			}
			sum, size := sumOf(c.t, link)
			if sum != f.SHA256 || size != f.Size {
				c.t.Errorf("%s@%s: %s has %d bytes with sha256 %s, the manifest says %d, %s", name, revision, f.Path, size, sum, f.Size, f.SHA256)
			}
			total += size
		}
		if total != m.Bytes {
			c.t.Errorf("%s@%s: %d bytes, the manifest says %d", name, revision, total, m.Bytes)
		}
	}
}

// currents checks that current names a revision all of whose links lead to true
// blobs. For each model with a manifest there is one.
func (c *checker) currents() {
	c.t.Helper()
	for revision := range c.published {
		name, _, _ := strings.Cut(revision, "@")
		target, err := os.Readlink(filepath.Join(c.dir, "models", name, "current"))
		if err != nil || strings.Contains(target, "/") {
			c.t.Errorf("current of %s is %q, %v", name, target, err)
			continue
		}
		// A kill between switching current and writing the manifest leaves it
		// on a revision that is complete and not yet published.
		err = filepath.WalkDir(filepath.Join(c.dir, "models", name, target), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type()&fs.ModeSymlink != 0 && !strings.HasPrefix(d.Name(), ".stoker-tmp-") {
				c.inside(path)
			}
			return err
		})
		if err != nil {
			c.t.Error(err)
		}
	}
}

func (c *checker) hub() {
	c.t.Helper()
	for _, path := range c.glob("hub/models--*/trees/*.json") {
		commit := strings.TrimSuffix(filepath.Base(path), ".json")
		snapshot := filepath.Join(filepath.Dir(filepath.Dir(path)), "snapshots", commit)
		var tree struct {
			Files map[string]struct {
				Size int64
				LFS  string `json:"lfs_sha256"`
			}
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &tree)
		}
		if err != nil || len(tree.Files) == 0 {
			c.t.Errorf("%s: %d files, %v", path, len(tree.Files), err)
		}
		for p, f := range tree.Files {
			link := filepath.Join(snapshot, p)
			if c.inside(link) == "" {
				continue
			}
			if sum, size := sumOf(c.t, link); size != f.Size || f.LFS != "" && f.LFS != sum {
				c.t.Errorf("%s is not what the view's tree says", link)
			}
		}
	}
	for _, refs := range c.glob("hub/models--*/refs") {
		err := filepath.WalkDir(refs, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
				return err
			}
			commit, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_, err = os.Stat(filepath.Join(filepath.Dir(refs), "snapshots", string(commit)))
			return err
		})
		if err != nil {
			c.t.Error(err)
		}
	}
}

// modes checks that pods of any uid can read what they are shown, which manifests name.
func (c *checker) modes() {
	c.t.Helper()
	for top, file := range map[string]fs.FileMode{"blobs": 0o444, "models": 0, "manifests": 0o644, "status": 0o644, "hub": 0o644} {
		err := filepath.WalkDir(filepath.Join(c.dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type()&fs.ModeSymlink != 0 || strings.HasPrefix(d.Name(), ".stoker-tmp-") {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := file
			if d.IsDir() {
				want = 0o755
			}
			if top == "blobs" && !d.IsDir() && !c.named[d.Name()] && info.Mode().Perm() == 0o600 {
				return nil // moved in and not shown yet: a kill came between, and the next pull shows it
			}
			if info.Mode().Perm() != want {
				c.t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.t.Error(err)
		}
	}
}
