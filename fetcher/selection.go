package fetcher

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/fetcher/store"
)

// ErrNothingSelected is a choice of files that leaves none: the patterns are
// wrong, or the repository holds only formats that vLLM takes by name.
var ErrNothingSelected = errors.New("no file is selected")

// notLoaded are files that vLLM does not load from a repository that has
// safetensors in its root: other formats and frameworks' copies of the same
// weights. Custom code (*.py) is never left out.
func notLoaded() []string {
	return []string{
		"*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ot", "*.onnx*", "*.gguf", "original/*", "metal/*",
	}
}

// Select returns the files that a pull takes, in the order given. With include
// or exclude, a file is taken if it matches any include (or there is none) and
// no exclude. With neither, what vLLM would load is taken. Patterns follow
// [Match]; one that ends in a slash means everything below.
//
// ErrNothingSelected is a choice that leaves none; where there is no file at all,
// no choice would help: that is ErrRefused.
func Select(files []File, include, exclude []string) ([]File, error) {
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: it has no files; check that it is the right one", ErrRefused)
	}
	if len(include) == 0 && len(exclude) == 0 {
		exclude = defaultExclude(files)
		if onlyGGUF(files, exclude) {
			return nil, fmt.Errorf("%w: the weights here are GGUF; name one of them with include", ErrNothingSelected)
		}
	}
	var chosen []File
	for _, f := range files {
		if (len(include) == 0 || matchesAny(include, f.Path)) && !matchesAny(exclude, f.Path) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%w out of %d; check the include and exclude patterns", ErrNothingSelected, len(files))
	}
	return chosen, nil
}

// defaultExclude decides as vLLM does which format of the weights it would
// load: safetensors in the root, else *.bin, else *.pt. GGUF is only loaded
// when a file is named.
func defaultExclude(files []File) []string {
	root := func(pattern string) bool {
		return slices.ContainsFunc(files, func(f File) bool {
			return !strings.Contains(f.Path, "/") && Match(pattern, f.Path)
		})
	}
	without := func(keep ...string) []string {
		return slices.DeleteFunc(notLoaded(), func(p string) bool { return slices.Contains(keep, p) })
	}
	switch {
	case root("*.safetensors"):
		exclude := notLoaded()
		sharded := slices.ContainsFunc(files, func(f File) bool {
			return !strings.Contains(f.Path, "/") && Match("*.safetensors", f.Path) && !Match("consolidated*", f.Path)
		})
		if sharded {
			exclude = append(exclude, "consolidated*")
		}
		return exclude
	case root("*.bin"):
		return without("*.bin")
	case root("*.pt"):
		return without("*.pt")
	default:
		return []string{"*.gguf"}
	}
}

// onlyGGUF says that all weights are GGUF: what exclude leaves are documents, and
// to call those a model would be wrong.
func onlyGGUF(files []File, exclude []string) bool {
	gguf := false
	for _, f := range files {
		gguf = gguf || Match("*.gguf", f.Path)
		if matchesAny([]string{"*.safetensors", "*.bin", "*.pt", "*.pth"}, f.Path) && !matchesAny(exclude, f.Path) {
			return false
		}
	}
	return gguf
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if strings.HasSuffix(p, "/") {
			p += "*"
		}
		return Match(p, name)
	})
}

// checkListing refuses a listing with names, sizes or digests that no source
// may give, before any of it is used: hostile names, duplicates, and a file
// where another needs a folder, one content with two sizes. Errors are
// ErrCorrupt.
func checkListing(l Listing) error {
	if err := store.CheckRevision(l.Revision); err != nil {
		return err
	}
	seen := make(map[string]bool, len(l.Files))
	sizes := map[Digest]int64{}
	var total int64
	for _, f := range l.Files {
		if err := store.CheckPath(f.Path); err != nil {
			return err
		}
		if seen[f.Path] {
			return fmt.Errorf("file %q is listed twice: %w", f.Path, ErrCorrupt)
		}
		seen[f.Path] = true
		if f.Size < 0 || f.Size > math.MaxInt64-total {
			return fmt.Errorf("file %q has the size %d: %w", f.Path, f.Size, ErrCorrupt)
		}
		total += f.Size
		if err := f.Digest.Check(); err != nil {
			return fmt.Errorf("file %q: %w: %w", f.Path, err, ErrCorrupt)
		}
		if !f.Digest.identifies() {
			continue
		}
		if size, ok := sizes[f.Digest]; ok && size != f.Size {
			return fmt.Errorf("file %q has %d bytes and the digest of a file with %d: %w", f.Path, f.Size, size, ErrCorrupt)
		}
		sizes[f.Digest] = f.Size
	}
	folders := map[string]bool{".": true}
	for _, f := range l.Files {
		for dir := path.Dir(f.Path); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			if seen[dir] {
				return fmt.Errorf("%q is both a file and the folder of %q: %w", dir, f.Path, ErrCorrupt)
			}
		}
	}
	return nil
}
