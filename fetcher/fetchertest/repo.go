package fetchertest

import (
	"context"
	"encoding/hex"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// RepoOptions say who may read a repository.
type RepoOptions struct {
	// Private hides the repository from all who have no token of Tokens.
	Private bool
	// Gated shows the repository's file list to all, and gives its files only
	// to tokens of Tokens.
	Gated bool
	// Tokens may read the repository though it is Private or Gated.
	Tokens []string
}

// repo is a model repository: commits, and the refs that name some of them.
type repo struct {
	id      string
	options RepoOptions
	refs    map[string]string // branches, tags and refs/pr/N -> commit
	commits map[string]*commit
}

// commit is one immutable state of a repository.
type commit struct {
	id      string
	entries []entry          // sorted by path; directories too
	files   map[string]entry // by path, files only
}

// entry is one line of the Hub's tree, with the content behind it.
type entry struct {
	Type string    `json:"type"`
	OID  string    `json:"oid"`
	Size int64     `json:"size"`
	Path string    `json:"path"`
	LFS  *lfsEntry `json:"lfs,omitempty"`

	// LastCommit is only told to those who ask for it.
	LastCommit *lastCommit `json:"lastCommit,omitempty"`

	content *Content
}

type lastCommit struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Date  string `json:"date"`
}

type lfsEntry struct {
	OID         string `json:"oid"`
	Size        int64  `json:"size"`
	PointerSize int    `json:"pointerSize"`
}

// etag is what the Hub names the file's content by.
func (e entry) etag() string {
	if e.LFS != nil {
		return e.LFS.OID
	}
	return e.OID
}

// lfsFrom is the size in bytes from which the Hub keeps any file in LFS.
const lfsFrom = 10 << 20

// inLFS is the Hub's rule: by extension, as its .gitattributes say, or by
// size.
func inLFS(name string, size int64) bool {
	switch path.Ext(name) {
	case ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".model":
		return true
	}
	return size >= lfsFrom
}

// newCommit digests every file of tree (several at once) and names the result
// as git would, so that the same content on the same parent has the same id.
func newCommit(ctx context.Context, tree Tree, parent string) (*commit, error) {
	names := make([]string, 0, len(tree))
	for name := range tree {
		names = append(names, name)
	}
	slices.Sort(names)
	files := make([]entry, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			files[i], err = newEntry(name, tree[name])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	c := &commit{files: map[string]entry{}}
	for _, e := range files {
		c.files[e.Path] = e
	}
	root, err := c.addFolder("", files)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(c.entries, func(a, b entry) int { return strings.Compare(a.Path, b.Path) })
	body := "tree " + hex.EncodeToString(root) + "\n"
	if parent != "" {
		body += "parent " + parent + "\n"
	}
	body += "author stoker <stoker@localhost> 1700000000 +0000\ncommitter stoker <stoker@localhost> 1700000000 +0000\n\nPush\n"
	c.id = hex.EncodeToString(gitObject("commit", []byte(body)))
	return c, nil
}

func newEntry(name string, content *Content) (entry, error) {
	e := entry{Type: "file", Path: name, Size: content.Size(), content: content}
	if !inLFS(name, content.Size()) {
		oid, err := content.GitBlob()
		e.OID = oid
		return e, err
	}
	sum, err := content.SHA256()
	if err != nil {
		return entry{}, err
	}
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", sum, e.Size)
	e.OID = hex.EncodeToString(gitObject("blob", []byte(pointer)))
	e.LFS = &lfsEntry{OID: sum, Size: e.Size, PointerSize: len(pointer)}
	return e, nil
}

// addFolder adds the entries below prefix (empty, or with a slash at its end)
// and returns the id of its git tree object. files are those below prefix.
func (c *commit) addFolder(prefix string, files []entry) ([]byte, error) {
	type child struct {
		key, mode, name string // git sorts a folder as if its name ended in a slash
		oid             []byte
	}
	var children []child
	below := map[string][]entry{}
	for _, e := range files {
		name, _, deeper := strings.Cut(strings.TrimPrefix(e.Path, prefix), "/")
		if deeper {
			below[name] = append(below[name], e)
			continue
		}
		oid, err := hex.DecodeString(e.OID)
		if err != nil {
			return nil, fmt.Errorf("name %s: %w", e.Path, err)
		}
		c.entries = append(c.entries, e)
		children = append(children, child{key: name, mode: "100644", name: name, oid: oid})
	}
	for name, inside := range below {
		oid, err := c.addFolder(prefix+name+"/", inside)
		if err != nil {
			return nil, err
		}
		c.entries = append(c.entries, entry{Type: "directory", OID: hex.EncodeToString(oid), Path: prefix + name})
		children = append(children, child{key: name + "/", mode: "40000", name: name, oid: oid})
	}
	slices.SortFunc(children, func(a, b child) int { return strings.Compare(a.key, b.key) })
	var body []byte
	for _, ch := range children {
		body = append(body, ch.mode+" "+ch.name+"\x00"...)
		body = append(body, ch.oid...)
	}
	return gitObject("tree", body), nil
}

// below returns the entries of a folder ("" is the root) behind the path after
// ("" is all), of all levels if recursive: at most the given number of them, and
// whether there are more.
func (c *commit) below(folder, after string, recursive bool, most int) (list []entry, more bool) {
	if folder != "" {
		folder += "/"
	}
	from, found := slices.BinarySearchFunc(c.entries, max(folder, after), func(e entry, path string) int { return strings.Compare(e.Path, path) })
	if found {
		from++
	}
	list = []entry{}
	for _, e := range c.entries[from:] {
		rest, inside := strings.CutPrefix(e.Path, folder)
		if !inside {
			break
		}
		if !recursive && strings.Contains(rest, "/") {
			continue
		}
		if len(list) == most {
			return list, true
		}
		list = append(list, e)
	}
	return list, false
}

// resolve finds the commit that a revision names.
func (r *repo) resolve(revision string) (*commit, bool) {
	if id, ok := r.refs[revision]; ok {
		revision = id
	}
	c, ok := r.commits[revision]
	return c, ok
}
