package image

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Contents is what an image holds.
type Contents struct {
	// Compressed is the sum of the layers as a registry stores them, in bytes.
	Compressed int64
	// User, as in UID:GID, and Entrypoint.
	User       string
	Entrypoint []string
	// Files are the regular files and the links by path, without the leading slash; what a later layer deletes is gone.
	Files map[string]File
}

// File is one file of an image.
type File struct {
	Mode fs.FileMode
	// Size in bytes; 0 for links.
	Size int64
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// Inspect reads the one image of an OCI layout whose layers are gzipped tars.
func Inspect(dir string) (Contents, error) {
	contents, err := inspect(dir)
	if err != nil {
		return Contents{}, fmt.Errorf("read the image in %s: %w", dir, err)
	}
	return contents, nil
}

func inspect(dir string) (Contents, error) {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := readJSON(filepath.Join(dir, "index.json"), &index); err != nil {
		return Contents{}, err
	}
	if len(index.Manifests) != 1 {
		return Contents{}, fmt.Errorf("it holds %d images, not 1", len(index.Manifests))
	}
	var manifest struct {
		Config descriptor   `json:"config"`
		Layers []descriptor `json:"layers"`
	}
	if err := readJSON(blob(dir, index.Manifests[0]), &manifest); err != nil {
		return Contents{}, err
	}
	var config struct {
		Config struct {
			User       string   `json:"User"`
			Entrypoint []string `json:"Entrypoint"`
		} `json:"config"`
	}
	if err := readJSON(blob(dir, manifest.Config), &config); err != nil {
		return Contents{}, err
	}
	c := Contents{User: config.Config.User, Entrypoint: config.Config.Entrypoint, Files: map[string]File{}}
	for _, layer := range manifest.Layers {
		c.Compressed += layer.Size
		if err := c.addLayer(blob(dir, layer)); err != nil {
			return Contents{}, fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	return c, nil
}

func blob(dir string, d descriptor) string {
	return filepath.Join(dir, "blobs", strings.ReplaceAll(d.Digest, ":", string(filepath.Separator)))
}

func readJSON(path string, value any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, value)
}

// addLayer lays one layer over those before it.
func (c *Contents) addLayer(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	layer := tar.NewReader(unzipped)
	for {
		header, err := layer.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.add(header)
	}
}

// Whiteouts, as the image specification has them: a name that hides one below, and one that hides a whole directory's.
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

func (c *Contents) add(header *tar.Header) {
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	dir, base := path.Split(name)
	switch {
	case base == opaqueWhiteout:
		c.remove(dir)
	case strings.HasPrefix(base, whiteout):
		hidden := dir + strings.TrimPrefix(base, whiteout)
		delete(c.Files, hidden)
		c.remove(hidden + "/")
	case header.Typeflag != tar.TypeDir:
		c.Files[name] = File{Mode: header.FileInfo().Mode(), Size: header.Size}
	}
}

func (c *Contents) remove(prefix string) {
	for name := range c.Files {
		if strings.HasPrefix(name, prefix) {
			delete(c.Files, name)
		}
	}
}

// Programs are the executable files, sorted, less shared libraries: what somebody who got in could start.
func (c *Contents) Programs() []string {
	var programs []string
	for name, file := range c.Files {
		library := strings.Contains(path.Base(name), ".so")
		if file.Mode.IsRegular() && file.Mode&0o111 != 0 && !library {
			programs = append(programs, name)
		}
	}
	slices.Sort(programs)
	return programs
}
