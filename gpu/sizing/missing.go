package sizing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// errPointer: Git LFS keeps a text of three lines in a repository in place of a large file (git-lfs.com, docs/spec.md). A
// clone without Git LFS has these texts only.
var errPointer = errors.New("it is a Git LFS pointer, not the file that it stands for, which git lfs pull fetches")

const (
	pointerStart = "version https://git-lfs"
	maxPointer   = 1024 // by its specification, a pointer is shorter
)

// isPointer reports whether a file whose header is not read is a pointer.
func isPointer(fsys fs.FS, name string, size int64) (bool, error) {
	if size >= maxPointer {
		return false, nil
	}
	f, err := fsys.Open(name)
	if err != nil {
		return false, err // it says which file, and that it was to be opened
	}
	defer func() { _ = f.Close() }() // only read from
	start, err := io.ReadAll(io.LimitReader(f, int64(len(pointerStart))))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return string(start) == pointerStart, nil
}

// explainMissing adds to an error of a missing file what the directory holds in place of a model, where that is plain.
func explainMissing(fsys fs.FS, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, listErr := fs.ReadDir(fsys, ".")
	if listErr != nil {
		return err
	}
	if what := whatIsThere(fsys, entries); what != "" {
		return fmt.Errorf("%w: %s", err, what)
	}
	return err
}

func whatIsThere(fsys fs.FS, entries []fs.DirEntry) string {
	has := func(names ...string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return slices.Contains(names, e.Name()) })
	}
	endsWith := func(suffix string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() && strings.HasSuffix(e.Name(), suffix) })
	}
	switch {
	case len(entries) == 0:
		return "there is no file in it"
	case has("adapter_config.json"):
		return adapterOf(fsys)
	case has("model_index.json"):
		return "it is a pipeline of diffusers, whose models lie in folders (model_index.json)"
	case has("config.json"):
		if endsWith(".pth") {
			return "vLLM loads no .pth files"
		}
		return ""
	case has("params.json") && endsWith(".pth"):
		return "it is a checkpoint in Meta's own format (params.json and .pth files), which vLLM does not load"
	case endsWith(".gguf"):
		return "it has GGUF files only; put the config.json of the model that they were made from beside them"
	case has("snapshots") && has("blobs", "refs"):
		return "it is a repository in the Hub's cache; name the directory of a revision in its snapshots"
	}
	if within := foldersWithConfig(fsys, entries); len(within) > 0 {
		return "there is one in " + strings.Join(within, ", ")
	}
	if has("tokenizer.json", "tokenizer.model", "tokenizer_config.json") {
		return "it holds a tokenizer and no model"
	}
	return ""
}

// adapterOf names the model that a LoRA adapter changes.
func adapterOf(fsys fs.FS) string {
	base := "another model"
	var adapter struct {
		Base string `json:"base_model_name_or_path"`
	}
	if readJSON(fsys, "adapter_config.json", &adapter) == nil && adapter.Base != "" && len(adapter.Base) <= maxNamed {
		base = adapter.Base
	}
	return fmt.Sprintf("it is a LoRA adapter of %s, beside which vLLM loads it (--enable-lora)", base)
}

// onlyAdapter reports whether all weights are those of a LoRA adapter, which a config.json beside them makes no model.
func onlyAdapter(fsys fs.FS, files []string) bool {
	for _, name := range files {
		if strings.TrimSuffix(name, path.Ext(name)) != "adapter_model" {
			return false
		}
	}
	_, err := fs.Stat(fsys, "adapter_config.json")
	return err == nil
}

const (
	maxNamed   = 200 // characters of a name that an error repeats
	maxFolders = 3   // that an error names
)

// foldersWithConfig lists folders that hold a config.json.
func foldersWithConfig(fsys fs.FS, entries []fs.DirEntry) []string {
	var within []string
	for _, e := range entries {
		if !e.IsDir() || len(within) == maxFolders {
			continue
		}
		if _, err := fs.Stat(fsys, path.Join(e.Name(), "config.json")); err == nil {
			within = append(within, e.Name())
		}
	}
	return within
}
