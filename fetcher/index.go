package fetcher

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The indexes that vLLM reads, by the format of the weights.
const (
	indexOfSafetensors = "model.safetensors.index.json"
	indexOfMistral     = "consolidated.safetensors.index.json"
)

// check refuses an index that names files which are not there, as in a bucket whose
// upload is under way: vLLM would not start with them, so to call that warm would be a
// lie. What exclude takes away was meant to go.
func (x *weightIndex) check(source Source, exclude []string, has func(string) bool) error {
	missing := slices.DeleteFunc(slices.Clone(x.files), func(name string) bool { return has(name) || matchesAny(exclude, name) })
	if len(missing) == 0 {
		return nil
	}
	what := fmt.Errorf("%s names %q, which is not there", x.name, missing[0])
	if len(missing) > 1 {
		what = fmt.Errorf("%s names %q and %d more, which are not there", x.name, missing[0], len(missing)-1)
	}
	return &Error{
		Kind: ErrRefused, Op: "check the weights of", Origin: source.String(), Err: what,
		Hint: "pull again when all of it was uploaded, or choose files with include",
	}
}

// neededIndex returns the index without which the default choice cannot be made:
// where the names of the weights do not show that each of them belongs to one set.
func neededIndex(files []File, c Choice) (File, bool) {
	if len(c.Include) > 0 {
		return File{}, false
	}
	form, err := rootFormat(files, c.FileFormat)
	name := indexOfSafetensors
	if form == formatMistral {
		name = indexOfMistral
	}
	if err != nil || form != formatMistral && form != formatSafetensors {
		return File{}, false
	}
	var weights []string
	index := -1
	for i, f := range files {
		if f.Path == name && f.Size <= maxIndex {
			index = i
		}
		if !strings.Contains(f.Path, "/") && f.hasSuffix(".safetensors") && isConsolidated(f.Path) == (form == formatMistral) {
			weights = append(weights, f.Path)
		}
	}
	if index < 0 || isWholeSet(weights) {
		return File{}, false
	}
	return files[index], true
}

// isWholeSet reports whether these are all files of one set by their numbers.
func isWholeSet(names []string) bool {
	set := ""
	for _, name := range names {
		stem, of := cutShard(strings.TrimSuffix(name, ".safetensors"))
		if of != len(names) || set != "" && stem != set {
			return false
		}
		set = stem
	}
	return true
}

// cutShard cuts the number of a shard off, and returns of how many it is one: 17 of
// model-00003-of-00017; 0 if it has no number.
func cutShard(stem string) (bare string, of int) {
	bare, last, ok := cutLast(stem, "-of-")
	if !ok {
		return stem, 0
	}
	bare, first, ok := cutLast(bare, "-")
	if !ok || !isDigits(first) || !isDigits(last) {
		return stem, 0
	}
	of, err := strconv.Atoi(last)
	if err != nil {
		return stem, 0
	}
	return bare, of
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// isIndex reports whether a file is an index of weights by its name.
func isIndex(name string) bool {
	_, ok := cutIndex(path.Base(name))
	return ok
}

// indexName is the name of an index in parts: the set that it is of, that set's suffix
// and its variant, as of model.safetensors.index.json and model.safetensors.index.fp32.json.
type indexName struct{ stem, suffix, variant string }

func cutIndex(base string) (indexName, bool) {
	bare, isJSON := strings.CutSuffix(base, ".json")
	bare, variant, ok := strings.Cut(bare, ".index")
	suffix := path.Ext(bare)
	if !isJSON || !ok || suffix != ".safetensors" && suffix != ".bin" {
		return indexName{}, false
	}
	return indexName{strings.TrimSuffix(bare, suffix), suffix, strings.TrimPrefix(variant, ".")}, true
}

// Choose returns the files of a listing that a pull with this choice would take. It
// asks the driver for the index of the weights, once, where their names do not suffice.
// Errors are the driver's, and those of [Select].
func Choose(ctx context.Context, d Driver, src Source, l Listing, c Choice) ([]File, error) {
	var index *weightIndex
	if file, ok := neededIndex(l.Files, c); ok {
		var err error
		if index, _, err = readIndex(ctx, d, Object{Source: l.Of(src), Revision: l.Revision, File: file}); err != nil {
			return nil, err
		}
	}
	return Select(l.Files, c, index)
}

// choose is [Choose] with retries, and refuses an index that names what is not there
// before anything is transferred. What it read for that stays with the listing.
func (f *Fetcher) choose(ctx context.Context, req Request, l *Listing, failing func(error)) ([]File, error) {
	c := req.choice()
	if l.Source != (Source{}) && len(c.Include) == 0 && len(c.Exclude) == 0 {
		return l.Files, nil // one object, which was named
	}
	file, ok := neededIndex(l.Files, c)
	if !ok {
		return Select(l.Files, c, nil)
	}
	index := f.publishedIndex(req, file)
	if index == nil {
		driver, err := f.o.Drivers[req.Source.Scheme](req.Access)
		if err != nil {
			return nil, err
		}
		err = f.retry(ctx, "read "+file.Path, f.listGate(failing), func(ctx context.Context) (int64, error) {
			var err error
			index, l.read, err = readIndex(ctx, driver, Object{Source: l.Of(req.Source), Revision: l.Revision, File: file})
			return 0, err
		})
		if err != nil {
			return nil, err
		}
	}
	if index != nil {
		listed := make(map[string]bool, len(l.Files))
		for _, file := range l.Files {
			listed[file.Path] = true
		}
		if err := index.check(req.Source, c.Exclude, func(name string) bool { return listed[name] }); err != nil {
			return nil, err
		}
	}
	return Select(l.Files, c, index)
}

// publishedIndex is the index that is in the store already, nil if it is not: to look
// at a model again costs no transfer.
func (f *Fetcher) publishedIndex(req Request, file File) *weightIndex {
	m, err := f.o.Store.Lookup(req.Name)
	if err != nil {
		return nil // it is read from the source
	}
	src, err := ParseSource(m.Source)
	same := err == nil && src.WithoutRevision() == req.Source.WithoutRevision()
	for _, mf := range m.Files {
		pinned := file.Digest.identifies() && mf.VouchedBy == string(file.Digest) || same && file.Version != "" && mf.Version == file.Version
		if mf.Path == file.Path && mf.Size == file.Size && pinned {
			index, err := storedIndex(file.Path, f.o.Store.BlobPath(mf.SHA256))
			if err == nil {
				return index
			}
		}
	}
	return nil
}
