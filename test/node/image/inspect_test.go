package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layout writes OCI layouts.
type layout struct {
	*testing.T
	dir string
}

func (l layout) blob(content []byte) map[string]any {
	l.Helper()
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	path := filepath.Join(l.dir, "blobs", "sha256", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		l.Fatal(err)
	}
	return map[string]any{"digest": "sha256:" + name, "size": len(content)}
}

func (l layout) json(value any) []byte {
	l.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		l.Fatal(err)
	}
	return content
}

// entry is one file of a layer; a name that ends with a slash is a directory.
type entry struct {
	name string
	mode int64
	size int
}

func (l layout) layer(entries ...entry) map[string]any {
	l.Helper()
	var content bytes.Buffer
	zip := gzip.NewWriter(&content)
	archive := tar.NewWriter(zip)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(e.size), Typeflag: tar.TypeReg}
		if strings.HasSuffix(e.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := archive.WriteHeader(header); err != nil {
			l.Fatal(err)
		}
		if _, err := archive.Write(make([]byte, e.size)); err != nil {
			l.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		l.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		l.Fatal(err)
	}
	return l.blob(content.Bytes())
}

// image writes an image of these layers and reads it.
func (l layout) image(layers ...map[string]any) Contents {
	l.Helper()
	config := l.blob(l.json(map[string]any{"config": map[string]any{"User": "65532:65532", "Entrypoint": []string{"/" + binary}}}))
	manifest := l.blob(l.json(map[string]any{"config": config, "layers": layers}))
	index := l.json(map[string]any{"manifests": []any{manifest}})
	if err := os.WriteFile(filepath.Join(l.dir, "index.json"), index, 0o600); err != nil {
		l.Fatal(err)
	}
	contents, err := Inspect(l.dir)
	if err != nil {
		l.Fatal(err)
	}
	return contents
}

func TestInspect(t *testing.T) {
	l := layout{T: t, dir: t.TempDir()}
	first := l.layer(entry{"bin/", 0o755, 0}, entry{"bin/sh", 0o755, 5}, entry{"lib/libc.so.6", 0o755, 7}, entry{"old/a", 0o644, 1}, entry{"old/b/c", 0o644, 1})
	second := l.layer(entry{"bin/.wh.sh", 0o644, 0},
		entry{"old/.wh..wh..opq", 0o644, 0}, entry{"old/new", 0o644, 2}, entry{"./usr/local/bin/stoker", 0o755, 9})
	got := l.image(first, second)
	want := Contents{User: "65532:65532", Entrypoint: []string{"/" + binary}, Files: map[string]File{
		"lib/libc.so.6": {0o755, 7}, "old/new": {0o644, 2}, binary: {0o755, 9},
	}}
	for _, layer := range []map[string]any{first, second} {
		size, ok := layer["size"].(int)
		if !ok {
			t.Fatal("a layer has no size")
		}
		want.Compressed += int64(size)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
}

func TestCheckRefuses(t *testing.T) {
	good := func() Contents {
		return Contents{
			Compressed: MaxCompressed, User: "65532:65532", Entrypoint: []string{"/" + binary},
			Files: map[string]File{binary: {0o755, MaxBinary}, "usr/lib/libc.so.6": {0o755, 1}, "etc/passwd": {0o644, 1}, "bin": {fs.ModeSymlink | 0o777, 0}},
		}
	}
	if c := good(); c.Check() != nil {
		t.Fatal(c.Check())
	}
	for name, spoil := range map[string]func(*Contents){
		"binary":     func(c *Contents) { c.Files[binary] = File{0o755, MaxBinary + 1} },
		"no binary":  func(c *Contents) { delete(c.Files, binary) },
		"layers":     func(c *Contents) { c.Compressed++ },
		"shell":      func(c *Contents) { c.Files["bin/sh"] = File{0o755, 1} },
		"volume":     func(c *Contents) { c.Files["stoker"] = File{0o644, 1} },
		"user":       func(c *Contents) { c.User = "0:0" },
		"entrypoint": func(c *Contents) { c.Entrypoint = []string{"/bin/sh", "-c", "stoker"} },
	} {
		c := good()
		spoil(&c)
		if c.Check() == nil {
			t.Errorf("%s: nothing was found", name)
		}
	}
}
