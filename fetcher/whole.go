package fetcher

import (
	"fmt"
	"strings"

	"github.com/stoker-project/stoker/fetcher/store"
)

// checkWhole refuses a model whose own index names weights that it does not have.
// Whoever names files with include knows better. The files of m are in the store.
func (f *Fetcher) checkWhole(req Request, m store.Manifest) error {
	if len(req.Include) > 0 {
		return nil
	}
	have := make(map[string]string, len(m.Files))
	for _, mf := range m.Files {
		have[mf.Path] = mf.SHA256
	}
	name := indexFor(m.Files)
	sum, ok := have[name]
	if !ok {
		return nil
	}
	index, err := storedIndex(name, f.o.Store.BlobPath(sum))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if index == nil {
		return nil
	}
	return index.check(req.Source, req.Exclude, func(name string) bool { return have[name] != "" })
}

// indexFor is the index that vLLM reads for these files, be it there or not: in
// Mistral's format if there are files in it, and none if there are no safetensors.
func indexFor(files []store.ManifestFile) string {
	index := ""
	for _, f := range files {
		switch {
		case strings.Contains(f.Path, "/"):
		case isConsolidated(f.Path):
			return indexOfMistral
		case strings.HasSuffix(f.Path, ".safetensors"):
			index = indexOfSafetensors
		}
	}
	return index
}
