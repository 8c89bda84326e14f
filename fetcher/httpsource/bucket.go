package httpsource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
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

// Object splits the path of a source that is one object into its folder and the name of
// the object there; ok is false for a whole bucket.
func Object(src fetcher.Source) (folder fetcher.Source, name string, ok bool) {
	if !strings.Contains(src.Path, "/") {
		return src, "", false
	}
	folder = src
	folder.Path, name = path.Dir(src.Path), path.Base(src.Path)
	return folder, name, true
}

// Only returns the listing of the object of a folder that was listed as files, or one
// of no files if it is not there.
func Only(files []fetcher.File, folder fetcher.Source, name string) fetcher.Listing {
	files = slices.DeleteFunc(files, func(f fetcher.File) bool { return f.Path != name })
	return fetcher.Listing{Revision: Revision(files), Files: files, Source: folder}
}

// PathOf is the file's path of an object's name. A marker, which stands for an
// empty folder, is no file; a name that does not begin with the prefix is an
// error, because the server answers a question that was not asked, and so is a size
// below zero.
func PathOf(name, prefix string, size int64) (file string, isFile bool, err error) {
	if size < 0 {
		return "", false, fmt.Errorf("the object %q has a size that no object has", Plain(name))
	}
	file, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", false, fmt.Errorf("the object %q is listed under %q", Plain(name), prefix)
	}
	if (file == "" || strings.HasSuffix(file, "/")) && size == 0 {
		return "", false, nil
	}
	return file, true, nil
}
