package fetcher

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/fetcher/smallfile"
	"github.com/stoker-project/stoker/fetcher/store"
)

// checkWhole refuses a model whose own index names weights that it does not have,
// as a bucket whose upload is under way: vLLM would not start with it, so to call
// it warm would be a lie. Whoever names files with include or exclude knows better.
// The files of m are in the store.
func (f *Fetcher) checkWhole(req Request, m store.Manifest) error {
	if len(req.Include) > 0 || len(req.Exclude) > 0 {
		return nil
	}
	have := make(map[string]string, len(m.Files))
	for _, mf := range m.Files {
		have[mf.Path] = mf.SHA256
	}
	index := weightIndex(m.Files)
	sum, ok := have[index]
	if !ok {
		return nil
	}
	named, err := indexedFiles(f.o.Store.BlobPath(sum))
	if err != nil {
		return fmt.Errorf("read %s: %w", index, err)
	}
	missing := slices.DeleteFunc(named, func(name string) bool { return have[name] != "" })
	if len(missing) == 0 {
		return nil
	}
	what := fmt.Errorf("%s names %q, which is not there", index, missing[0])
	if len(missing) > 1 {
		what = fmt.Errorf("%s names %q and %d more, which are not there", index, missing[0], len(missing)-1)
	}
	return &Error{
		Kind: ErrRefused, Op: "check the weights of", Origin: req.Source.String(), Err: what,
		Hint: "pull again when all of it was uploaded, or choose files with include",
	}
}

// weightIndex is the index that vLLM reads for these files, be it there or not: in
// Mistral's format if there are files in it, and none if there are no safetensors.
func weightIndex(files []store.ManifestFile) string {
	index := ""
	for _, f := range files {
		switch {
		case strings.Contains(f.Path, "/"):
		case Match("consolidated*.safetensors", f.Path):
			return "consolidated.safetensors.index.json"
		case Match("*.safetensors", f.Path):
			index = "model.safetensors.index.json"
		}
	}
	return index
}

// maxIndex bounds what is read of an index, in bytes: far above what any model's has.
const maxIndex = 64 << 20

// indexedFiles returns the distinct files that an index of weights names, sorted;
// none if it is no index, which is for vLLM to say.
func indexedFiles(path string) ([]string, error) {
	info, err := os.Lstat(path)
	if err != nil || info.Size() > maxIndex {
		return nil, err
	}
	text, err := smallfile.Read(path, maxIndex)
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if json.Unmarshal(text, &index) != nil {
		return nil, nil //nolint:nilerr // see above
	}
	return slices.Compact(slices.Sorted(maps.Values(index.WeightMap))), nil
}
