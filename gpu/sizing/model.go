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
		return Model{}, fmt.Errorf("size model: %w", explainMissing(fsys, err))
	}
	weights, err := readWeights(fsys, arch)
	if err != nil {
		return Model{}, fmt.Errorf("size model: %w", explainMissing(fsys, err))
	}
	arch.resolveDType(weights)
	return Model{Architecture: arch, Weights: weights}, nil
}
