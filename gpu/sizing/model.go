package sizing

import (
	"fmt"
	"io/fs"
)

// Model is what the files of a model say of the memory that it takes.
type Model struct {
	Architecture Architecture `json:"architecture"`
	Weights      Weights      `json:"weights"`
}

// ReadModel reads a model directory: config.json, the index of shards, and the
// headers of the weight files. It fails if config.json is missing or not
// understandable, if a header is damaged, or if there are no weights; a file that
// is missing wraps fs.ErrNotExist. An architecture that is not known is no error:
// Need.Notes say what is estimated then.
func ReadModel(fsys fs.FS) (Model, error) {
	arch, err := readArchitecture(fsys)
	if err != nil {
		return Model{}, fmt.Errorf("size model: %w", err)
	}
	weights, err := readWeights(fsys, arch)
	if err != nil {
		return Model{}, fmt.Errorf("size model: %w", err)
	}
	return Model{Architecture: arch, Weights: weights}, nil
}

// RuleOfThumbBytes is parameters x 2 bytes x 1.25, the sum that people do in
// their heads. It knows neither quantization nor the length of requests.
func (m Model) RuleOfThumbBytes() uint64 {
	return mul(m.Weights.Parameters, 5) / 2
}

// TensorParallelSizes are the powers of two, up to most, into which vLLM can
// split the model.
func (m Model) TensorParallelSizes(most int) []int {
	var sizes []int
	for tp := 1; tp > 0 && tp <= most; tp *= 2 {
		if m.Architecture.checkTensorParallel(tp) == nil {
			sizes = append(sizes, tp)
		}
	}
	return sizes
}
