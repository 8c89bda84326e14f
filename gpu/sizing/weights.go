package sizing

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Weights is what a model directory's weight files hold. Sizes are in bytes.
type Weights struct {
	// Files are the files that vLLM would read.
	Files []string `json:"files"`
	// Bytes is the sum of all tensors in them; the sizes of the files where
	// Estimated.
	Bytes uint64 `json:"bytes"`
	// ByDType splits Bytes by the type that the file states ("BF16"), with
	// "other" for those not known here; empty where headers are not read.
	ByDType map[string]uint64 `json:"byDtype,omitempty"`
	// Parameters counts elements, those of packed low-bit types unpacked and
	// without the scales of quantization.
	Parameters uint64 `json:"parameters"`
	// LoadedBytes is what vLLM keeps of Bytes in GPU memory, over all GPUs if
	// every tensor is split. It differs where Notes say so.
	LoadedBytes uint64 `json:"loadedBytes"`
	// ReplicatedBytes is the part of LoadedBytes that every GPU keeps whole
	// under tensor parallelism: norms, routers, MLA's down projections.
	ReplicatedBytes uint64 `json:"replicatedBytes"`
	// KVProjectionBytes is the part of LoadedBytes in key and value
	// projections, which are repeated where there are more GPUs than KV heads.
	KVProjectionBytes uint64 `json:"kvProjectionBytes"`
	// MXFP4Bytes is the part of LoadedBytes in MXFP4 experts, which vLLM pads.
	MXFP4Bytes uint64 `json:"mxfp4Bytes,omitempty"`

	// parts are the same by layers, and linearBytes is what vLLM may quantize while it loads it.
	parts       parts
	linearBytes uint64

	// splits are the dimensions that quantization does not allow to be split at will.
	splits []split

	Estimated bool     `json:"estimated"`
	Notes     []string `json:"notes,omitempty"`
}

// readWeights reads the headers of every weight file that vLLM would load.
func readWeights(fsys fs.FS, arch Architecture) (Weights, error) {
	files, err := safetensorsFiles(fsys)
	if err != nil {
		return Weights{}, err
	}
	if len(files) == 0 {
		return otherWeights(fsys)
	}
	if onlyAdapter(fsys, files) {
		return Weights{}, errNoWeights()
	}
	if len(files) > maxFiles {
		return Weights{}, tooManyFiles()
	}
	c := counter{arch: arch, headers: newHeaders(), w: Weights{Files: files, ByDType: map[string]uint64{}}}
	for _, name := range files {
		if err := c.readFile(fsys, name); err != nil {
			return Weights{}, err
		}
	}
	return c.weights(), nil
}

func (c *counter) readFile(fsys fs.FS, name string) (err error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open weights that the index names: %w", err)
	}
	if err != nil {
		return err // it says which file, and that it was to be opened
	}
	defer func() { // a source may know only then that the file changed meanwhile
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("read %s: %w", name, closeErr)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat %s: %w", name, err)
	}
	if err := c.headers.read(f, info.Size(), c.add); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// safetensorsFiles are those that vLLM reads: the files of the index if there is
// one, otherwise every *.safetensors in the root. Where there are files in Mistral's
// format, only those count, and the index of their own.
func safetensorsFiles(fsys fs.FS) ([]string, error) {
	all, err := rootFiles(fsys, ".safetensors")
	if err != nil {
		return nil, err
	}
	index := "model.safetensors.index.json"
	if consolidated := consolidatedOf(all); len(consolidated) > 0 {
		all, index = consolidated, "consolidated.safetensors.index.json"
	}
	files, err := indexedFiles(fsys, index)
	if err != nil || files != nil {
		return files, err
	}
	return all, nil
}

// indexedFiles are the distinct files of an index, sorted; nil without an index.
func indexedFiles(fsys fs.FS, index string) ([]string, error) {
	f, err := fsys.Open(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err // it says which file, and that it was to be opened
	}
	defer func() { _ = f.Close() }() // only read from
	r := bufio.NewReader(&limitedReader{r: f, left: maxIndex})
	if start, _ := r.Peek(len(pointerStart)); string(start) == pointerStart {
		return nil, fmt.Errorf("read %s: %w", index, errPointer)
	}
	files, err := readIndex(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", index, err)
	}
	return files, nil
}

// readIndex reads the names of files out of an index.
func readIndex(r io.Reader) ([]string, error) {
	set, tensors := map[string]bool{}, 0
	s := newJSONScanner(r)
	s.python = true
	err := s.object(func(key []byte) error {
		if string(key) != "weight_map" {
			return s.skip()
		}
		return s.object(func(key []byte) error {
			if tensors++; tensors > maxTensors {
				return tooManyTensors()
			}
			tensor := string(key)
			file, err := s.string()
			switch {
			case err != nil || set[string(file)]:
				return err
			case !fs.ValidPath(string(file)) || string(file) == ".":
				return fmt.Errorf("tensor %q is said to be in %q, which is no file name inside the model", tensor, file)
			}
			set[string(file)] = true
			if len(set) > maxFiles {
				return tooManyFiles()
			}
			return nil
		})
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && len(set) == 0 {
		err = errors.New("it has no weight_map")
	}
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// rootFiles are the files in the root whose names end with suffix, sorted.
func rootFiles(fsys fs.FS, suffix string) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("list the model: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// otherWeights takes the sizes of files in formats whose headers are not read.
func otherWeights(fsys fs.FS) (Weights, error) {
	files, err := indexedFiles(fsys, "pytorch_model.bin.index.json")
	if err != nil {
		return Weights{}, err
	}
	for _, suffix := range []string{".bin", ".pt", ".gguf"} {
		if len(files) > 0 {
			break
		}
		if files, err = rootFiles(fsys, suffix); err != nil {
			return Weights{}, err
		}
		files = slices.DeleteFunc(files, trainingOnly)
	}
	if len(files) == 0 || onlyAdapter(fsys, files) {
		return Weights{}, errNoWeights()
	}
	w := Weights{Files: files, Estimated: true}
	for _, name := range files {
		info, err := fs.Stat(fsys, name)
		if err != nil {
			return Weights{}, fmt.Errorf("find weights: %w", err)
		}
		switch pointer, err := isPointer(fsys, name, info.Size()); {
		case err != nil:
			return Weights{}, err
		case pointer:
			return Weights{}, fmt.Errorf("read %s: %w", name, errPointer)
		}
		w.Bytes = add(w.Bytes, uint64(max(info.Size(), 0)))
	}
	w.LoadedBytes = w.Bytes
	w.Parameters = w.Bytes / 2
	w.Notes = append(w.Notes, fmt.Sprintf("the weights are %s files, so their sizes stand for the bytes of the tensors, and half of that for the parameters", path.Ext(files[0])))
	if path.Ext(files[0]) == ".gguf" {
		w.Notes = append(w.Notes, "vLLM 0.33 has no loader for GGUF of its own; the package vllm-gguf-plugin adds one")
	}
	if len(files) > 1 && path.Ext(files[0]) == ".gguf" {
		w.Notes = append(w.Notes, "several GGUF files are counted together; vLLM loads one")
	}
	return w, nil
}

func errNoWeights() error {
	return fmt.Errorf("find weights: no safetensors, bin, pt or gguf file of a model: %w", fs.ErrNotExist)
}

// trainingOnly says whether a .bin or .pt file is a leftover of training that
// vLLM does not load.
func trainingOnly(name string) bool {
	switch strings.TrimSuffix(name, path.Ext(name)) {
	case "training_args", "optimizer", "scheduler", "scaler", "rng_state":
		return true
	}
	return false
}
