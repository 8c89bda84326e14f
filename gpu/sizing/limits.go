package sizing

import (
	"errors"
	"fmt"
	"io"
)

// ErrTooLarge is a model whose files would cost more to read than those of any
// model do: what it takes is unknown, and no repetition helps.
var ErrTooLarge = errors.New("it is larger than any model")

// The most that is read of one model. Reading all of it takes about two seconds and
// less than 200 MB of memory.
const (
	// maxTensors bounds the tensors: the most that are known are a few hundred
	// thousand.
	maxTensors = 1_000_000
	// maxFiles bounds the files of weights.
	maxFiles = 10_000
	// maxHeaders bounds the headers of all files together: a tensor takes about
	// 100 bytes.
	maxHeaders = 128 << 20
	// maxIndex bounds the index of shards, which names each tensor once more.
	maxIndex = 128 << 20
	// maxConfig bounds config.json, and maxValues the values in it: the largest that
	// are known list the quantization of each layer, in a few MB.
	maxConfig = 16 << 20
	maxValues = 500_000
)

func tooManyTensors() error {
	return fmt.Errorf("%w: it has more than %d tensors", ErrTooLarge, maxTensors)
}

func tooManyFiles() error {
	return fmt.Errorf("%w: it has more than %d files of weights", ErrTooLarge, maxFiles)
}

// limitedReader fails where a file goes on behind the limit.
type limitedReader struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("%w: the file is longer than that of any", ErrTooLarge)
	}
	return n, err
}
