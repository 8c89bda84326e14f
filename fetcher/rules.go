package fetcher

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// maxBeside bounds, in bytes, a .bin or .pt file that belongs to a model without
// being its weights. The largest ones known, a projection of embeddings or the voices
// of a speaker, have some megabytes; a second copy of the weights has more.
const maxBeside = 256 << 20

// rules decide the default choice for one source: what vLLM would load, which is held
// against vLLM's own code by TestVLLMLoadsWhatIsChosen.
type rules struct {
	format format
	// pipeline reports that the root only describes a pipeline whose parts are folders.
	pipeline bool
	// index is the index of the root's weights; nil: there is none, or their names say
	// it all.
	index *weightIndex
	// plain holds each set of weights that is there without a variant, as folder, stem
	// and suffix; safetensors those that are there as safetensors, as folder and stem.
	plain, safetensors map[string]bool
	// variants are the names that the source's own indexes give to variants.
	variants map[string]bool
}

// defaultChoice returns the choice that is made where no include names files.
func defaultChoice(files []File, fileFormat string, index *weightIndex) (func(File) bool, error) {
	form, err := rootFormat(files, fileFormat)
	if err != nil {
		return nil, err
	}
	r := newRules(files, form, index)
	if onlyGGUF(files) || slices.ContainsFunc(files, func(f File) bool { return isWeights(f) && r.leftOut(f) == "" }) {
		return func(f File) bool { return r.leftOut(f) == "" }, nil
	}
	// A tokenizer, a folder of checkpoints, another framework's model: for vLLM there is
	// nothing to choose by.
	return func(f File) bool { return !f.hasSuffix(".gguf") && notOfModel(f) == "" }, nil
}

func newRules(files []File, form format, index *weightIndex) *rules {
	r := &rules{format: form, index: index, plain: map[string]bool{}, safetensors: map[string]bool{}, variants: map[string]bool{}}
	pipeline, config, parts := false, false, false
	for _, f := range files {
		dir, base := path.Split(f.Path)
		pipeline, config = pipeline || f.Path == "model_index.json", config || f.Path == "config.json" || f.Path == "params.json"
		if index, ok := cutIndex(base); ok && index.variant != "" {
			r.variants[index.variant] = true
		}
		parts = parts || dir != "" && strings.HasSuffix(base, ".safetensors") && misplaced(f) == ""
	}
	r.pipeline = pipeline && parts && !config
	for _, f := range files {
		dir, base := path.Split(f.Path)
		stem, variant := r.cutVariant(base)
		if isWeights(f) && variant == "" {
			r.plain[dir+stem+path.Ext(base)] = true
		}
		if strings.HasSuffix(base, ".safetensors") {
			r.safetensors[dir+role(stem)] = true
		}
	}
	return r
}

// leftOut returns why a file is left out, "" if it is taken. What is not known to be
// useless is taken: a file too many costs some bytes, one that is missing a replica.
func (r *rules) leftOut(f File) string {
	if f.hasSuffix(".py") {
		return "" // custom code never goes
	}
	for _, why := range []string{notOfModel(f), misplaced(f), foreign(f)} {
		if why != "" {
			return why
		}
	}
	below := strings.Contains(f.Path, "/")
	switch {
	case isIndex(f.Path):
		return r.leftOutIndex(f)
	case !isWeights(f):
		return ""
	case below:
		return r.leftOutBelow(f)
	case r.pipeline:
		return "a second set of weights: the pipeline's parts lie in folders"
	case f.hasSuffix(".safetensors"):
		return r.leftOutSafetensors(f)
	case r.format == formatOf(f):
		return r.leftOutVariant(f)
	}
	return r.leftOutBeside(f)
}

// leftOutSafetensors decides about safetensors in the root.
func (r *rules) leftOutSafetensors(f File) string {
	consolidated := isConsolidated(f.Path)
	switch {
	case isNamedByCode(f.Path):
		return ""
	case consolidated && r.format != formatMistral:
		return "Mistral's format, and not the one that is taken"
	case !consolidated && r.format == formatMistral:
		return "vLLM loads the consolidated files, and only those"
	case r.index == nil:
		return r.leftOutVariant(f)
	case !r.index.names(f.Path):
		return "the index does not name it"
	}
	return ""
}

// leftOutBeside decides about files of the root that are not in the format which vLLM
// loads from there.
func (r *rules) leftOutBeside(f File) string {
	stem, _ := r.cutVariant(f.Path)
	switch {
	case role(stem) == "model" || role(stem) == "consolidated" || r.safetensors[role(stem)]:
		return "a second set of weights"
	case f.Size > maxBeside:
		return "too large for a part of the model that vLLM loads by itself"
	}
	return ""
}

// leftOutBelow decides about weights in folders. vLLM opens such files by their names
// only, as a dense layer's, so they do not depend on the format in the root.
func (r *rules) leftOutBelow(f File) string {
	dir, base := path.Split(f.Path)
	stem, _ := r.cutVariant(base)
	switch {
	case isConsolidated(base):
		return "vLLM takes it for a model in Mistral's format, wherever it lies"
	case f.hasSuffix(".safetensors"):
	case r.safetensors[dir+role(stem)]:
		return "a second set of weights"
	case r.format != formatNone && f.Size > maxBeside:
		return "too large for a part of the model that vLLM loads by itself"
	}
	return r.leftOutVariant(f)
}

// leftOutVariant leaves out a second precision of what is there as well.
func (r *rules) leftOutVariant(f File) string {
	dir, base := path.Split(f.Path)
	if stem, variant := r.cutVariant(base); variant != "" && r.plain[dir+stem+path.Ext(base)] {
		return "a second precision: " + variant
	}
	return ""
}

// leftOutIndex leaves an index out with the files that it names.
func (r *rules) leftOutIndex(f File) string {
	dir, base := path.Split(f.Path)
	index, _ := cutIndex(base)
	out := index.variant != "" && r.plain[dir+index.stem+index.suffix] ||
		index.suffix != ".safetensors" && r.safetensors[dir+role(index.stem)]
	if dir == "" {
		out = out || r.pipeline && r.format != formatNone ||
			index.stem == "consolidated" && r.format != formatMistral ||
			index.stem != "consolidated" && r.format == formatMistral
	}
	if out {
		return "the index of files that are left out"
	}
	return ""
}

// cutVariant cuts a file of weights into what it is of and its variant, "" for none:
// model.fp16-00001-of-00002.safetensors, and as it was written once,
// model-00001-of-00002.fp16.safetensors (transformers and diffusers).
func (r *rules) cutVariant(base string) (stem, variant string) {
	stem = strings.TrimSuffix(base, path.Ext(base))
	variant = strings.TrimPrefix(path.Ext(stem), ".")
	if r.isVariant(variant) {
		stem = strings.TrimSuffix(stem, "."+variant)
		stem, _ = cutShard(stem)
		return stem, variant
	}
	stem, _ = cutShard(stem)
	variant = strings.TrimPrefix(path.Ext(stem), ".")
	if r.isVariant(variant) {
		return strings.TrimSuffix(stem, "."+variant), variant
	}
	return stem, ""
}

func (r *rules) isVariant(s string) bool {
	switch s {
	case "fp32", "fp16", "bf16", "fp8", "float32", "float16", "bfloat16", "f32", "f16", "int8", "int4", "ema", "non_ema":
		return true
	}
	return r.variants[s]
}

// role is what weights are of, whatever library named them.
func role(stem string) string {
	if stem == "pytorch_model" {
		return "model"
	}
	return stem
}

// isNamedByCode reports the safetensors that vLLM's models, or its adapters, open by
// name, so that no index has to name them.
func isNamedByCode(name string) bool {
	switch name {
	case "adapter_model.safetensors", "new_embeddings.safetensors", "joint_head.safetensors", "readout.safetensors":
		return true
	}
	return false
}

// onlyGGUF reports that the weights of a source are GGUF files only.
func onlyGGUF(files []File) bool {
	return slices.ContainsFunc(files, func(f File) bool { return f.hasSuffix(".gguf") }) &&
		!slices.ContainsFunc(files, func(f File) bool {
			return notOfModel(f) == "" && (isWeights(f) && foreign(f) == "" || f.hasSuffix(".pth"))
		})
}

// format is how the weights in a source's root are kept.
type format string

const (
	formatNone        format = ""
	formatMistral     format = "mistral"
	formatSafetensors format = ".safetensors"
	formatBin         format = ".bin"
	formatPT          format = ".pt"
)

func formatOf(f File) format { return format(path.Ext(f.Path)) }

// rootFormat decides which weights of the root vLLM loads: those in Mistral's format
// where there are any, with params.json or without, which decides about the
// configuration only; else safetensors, else *.bin, else *.pt. vLLM 0.33:
// DefaultModelLoader._prepare_weights, get_config.
func rootFormat(files []File, fileFormat string) (format, error) {
	mistral, others := false, formatNone
	ranks := []format{formatNone, formatPT, formatBin, formatSafetensors}
	for _, f := range files {
		switch {
		case strings.Contains(f.Path, "/") || !isWeights(f) || notOfModel(f) != "" || foreign(f) != "":
		case isConsolidated(f.Path):
			mistral = true
		case slices.Index(ranks, formatOf(f)) > slices.Index(ranks, others):
			others = formatOf(f)
		}
	}
	switch {
	case fileFormat == FormatMistral && !mistral:
		return "", fmt.Errorf("%w: there is no consolidated*.safetensors in the root, which the file format %s consists of; leave the file format out", ErrNothingSelected, FormatMistral)
	case fileFormat == FormatHF && others == formatNone && mistral:
		return "", fmt.Errorf("%w: all weights in the root are in Mistral's format, and the file format is to be %s; leave the file format out", ErrNothingSelected, FormatHF)
	case mistral && fileFormat != FormatHF:
		return formatMistral, nil
	}
	return others, nil
}

// isConsolidated reports a file in Mistral's format by its name.
func isConsolidated(base string) bool {
	return strings.HasPrefix(base, "consolidated") && strings.HasSuffix(base, ".safetensors")
}

// isWeights reports whether a file is of a format of which vLLM loads weights without
// being given the file's name.
func isWeights(f File) bool { return f.hasSuffix(".safetensors", ".bin", ".pt") }

// hasWeightsSuffix reports whether a path ends as a file with weights does: those that
// isWeights reports, GGUF, and .pth, which no vLLM loads and stoker fit counts.
func hasWeightsSuffix(p string) bool {
	f := File{Path: p}
	return isWeights(f) || f.hasSuffix(".gguf", ".pth")
}

func (f File) hasSuffix(suffixes ...string) bool {
	return slices.Contains(suffixes, path.Ext(f.Path))
}
