package fetcher

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/fetcher/store"
)

// SelectionVersion is the version of the rules below. A manifest records by which
// rules its files were chosen; 0 stands for those of a stoker that recorded none.
const SelectionVersion = 2

// The formats that [Choice.FileFormat] names.
const (
	// FormatAuto is what vLLM's --config-format auto and --load-format auto take; so is "".
	FormatAuto = "auto"
	// FormatMistral is consolidated*.safetensors in the root, with params.json.
	FormatMistral = "mistral"
	// FormatHF is any other format in the root, with config.json.
	FormatHF = "hf"
)

// CheckFileFormat refuses what is no file format and names those that there are.
func CheckFileFormat(format string) error {
	switch format {
	case "", FormatAuto, FormatMistral, FormatHF:
		return nil
	}
	return fmt.Errorf("file format %q is not known; write %s, %s or %s", format, FormatAuto, FormatMistral, FormatHF)
}

// Choice is which files of a source a pull takes. The zero Choice is the default
// choice: what vLLM would load. Patterns follow [Match]; one that ends in a slash
// means everything below.
type Choice struct {
	// Include replaces the default choice by the files that match one of its patterns.
	// Where GGUF files are the only weights among those, configuration and tokenizer
	// come along.
	Include []string
	// Also adds to the choice.
	Also []string
	// Exclude takes away from what Include, Also or the default chose.
	Exclude []string
	// FileFormat decides the default choice where a source has its weights in Mistral's
	// format and in another: FormatAuto, FormatMistral or FormatHF.
	FileFormat string
}

// Equal reports whether both choose alike from every source.
func (c Choice) Equal(o Choice) bool {
	return slices.Equal(c.Include, o.Include) && slices.Equal(c.Also, o.Also) && slices.Equal(c.Exclude, o.Exclude) &&
		c.recordedFormat() == o.recordedFormat()
}

// recordedFormat is the format as manifests have it: nothing for FormatAuto.
func (c Choice) recordedFormat() string {
	if c.FileFormat == FormatAuto {
		return ""
	}
	return c.FileFormat
}

// ChoiceOf returns the choice that a manifest's files were made by.
func ChoiceOf(m store.Manifest) Choice {
	return Choice{Include: m.Include, Also: m.Also, Exclude: m.Exclude, FileFormat: m.FileFormat}
}

// ErrNothingSelected is a choice of files that leaves none: the patterns are
// wrong, or the repository holds only formats that vLLM takes by name.
var ErrNothingSelected = errors.New("no file is selected")

// Select returns the files that a pull takes, in the order given. index is the index
// that [neededIndex] named, nil if it named none or that one is no index.
//
// ErrNothingSelected is a choice that leaves none; where there is no file at all,
// no choice would help: that is ErrRefused.
func Select(files []File, c Choice, index *weightIndex) ([]File, error) {
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: it has no files; check that it is the right one", ErrRefused)
	}
	var base func(File) bool
	var err error
	if len(c.Include) > 0 {
		base = included(files, c.Include)
	} else if base, err = defaultChoice(files, c.FileFormat, index); err != nil {
		return nil, err
	}
	var chosen []File
	weights := 0
	for _, f := range files {
		if (base(f) || matchesAny(c.Also, f.Path)) && !matchesAny(c.Exclude, f.Path) {
			chosen = append(chosen, f)
			if f.hasSuffix(".gguf") || isWeights(f) {
				weights++
			}
		}
	}
	if len(c.Include) == 0 && weights == 0 && onlyGGUF(files) {
		// What is left are documents, and to call those a model would be wrong.
		return nil, fmt.Errorf("%w: the weights here are GGUF; name one of them with include, like '*Q4_K_M*'", ErrNothingSelected)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%w out of %d; check the include and exclude patterns", ErrNothingSelected, len(files))
	}
	return chosen, nil
}

// included returns the choice that include makes.
func included(files []File, include []string) func(File) bool {
	gguf, others := false, false
	for _, f := range files {
		if matchesAny(include, f.Path) {
			gguf, others = gguf || f.hasSuffix(".gguf"), others || isWeights(f)
		}
	}
	return func(f File) bool {
		return matchesAny(include, f.Path) || gguf && !others && accompaniesGGUF(f)
	}
}

// accompaniesGGUF reports whether a file is of the configuration or the tokenizer that
// vLLM reads beside a GGUF file.
func accompaniesGGUF(f File) bool {
	if strings.Contains(f.Path, "/") || isIndex(f.Path) {
		return false
	}
	return f.hasSuffix(".json", ".jinja", ".txt", ".model", ".tiktoken", ".py") || strings.HasPrefix(f.Path, "tokenizer.model")
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if strings.HasSuffix(p, "/") {
			p += "*"
		}
		return Match(p, name)
	})
}
