package httpsource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
)

// Revision digests what a bucket holds: the sorted (path, size, version) list.
// Fields are quoted or numbers, so that no two lists are written alike.
func Revision(files []fetcher.File) string {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b fetcher.File) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	for _, f := range sorted {
		_, _ = fmt.Fprintf(h, "%q %d %q\n", f.Path, f.Size, f.Version) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Bucket splits the path of a source into its bucket and what its files' names
// begin with: "" or a prefix that ends in a slash, because s3://b/llama does not
// mean s3://b/llama-2.
func Bucket(src fetcher.Source) (bucket, prefix string) {
	bucket, prefix, _ = strings.Cut(src.Path, "/")
	if prefix != "" {
		prefix += "/"
	}
	return bucket, prefix
}

// PathOf is the file's path of an object's name. A marker, which stands for an
// empty folder, is no file; a name that does not begin with the prefix is an
// error, because the server answers a question that was not asked, and so is a size
// below zero.
func PathOf(name, prefix string, size int64) (path string, isFile bool, err error) {
	if size < 0 {
		return "", false, fmt.Errorf("the object %q has a size that no object has", Plain(name))
	}
	path, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", false, fmt.Errorf("the object %q is listed under %q", Plain(name), prefix)
	}
	if (path == "" || strings.HasSuffix(path, "/")) && size == 0 {
		return "", false, nil
	}
	return path, true, nil
}
