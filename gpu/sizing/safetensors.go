package sizing

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxHeader is the longest header that the safetensors library itself accepts.
const maxHeader = 100_000_000

// Tensor is one entry of a safetensors header.
type Tensor struct {
	Name  string
	DType string   // as the file says it: "BF16", "F8_E4M3", "I32", ...
	Shape []uint64 // empty for a scalar
	Bytes uint64   // in the file
}

// elements is the product of the shape.
func (t Tensor) elements() uint64 { return mul(t.Shape...) }

// ReadHeader reads the header of a safetensors file of size bytes from its
// beginning and calls visit for each tensor, in the header's order. An error of
// visit ends the reading and is returned.
//
// It accepts what the safetensors library accepts: tensors that fill the file
// behind the header from end to end, without overlap or gap, each as large as
// its type and shape say. Tensors of a type that this package does not know are
// taken at the size that their offsets say. It reads the header and nothing
// after it, at most 100 MB.
func ReadHeader(r io.Reader, size int64, visit func(Tensor) error) error {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return fmt.Errorf("read the header's length: %w", unexpected(err))
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length > maxHeader {
		return fmt.Errorf("header of %d bytes is longer than %d, the most there may be", length, maxHeader)
	}
	if size < 8 || length > uint64(size)-8 {
		return fmt.Errorf("header of %d bytes is longer than the file of %d", length, size)
	}
	spans, err := readEntries(io.LimitReader(r, int64(length)), visit)
	if err != nil {
		return err
	}
	return checkSpans(spans, uint64(size)-8-length)
}

// span is where a tensor lies in the bytes behind the header.
type span struct {
	name       string
	begin, end uint64
}

func readEntries(r io.Reader, visit func(Tensor) error) ([]span, error) {
	dec := json.NewDecoder(r)
	if tok, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("read the header: %w", unexpected(err))
	} else if tok != json.Delim('{') {
		return nil, errors.New("header is not a JSON object")
	}
	var spans []span
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("read the header: %w", unexpected(err))
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("header has %v where a tensor's name belongs", key)
		}
		if seen[name] {
			return nil, fmt.Errorf("tensor %q stands twice in the header", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			var metadata map[string]string
			if err := dec.Decode(&metadata); err != nil {
				return nil, fmt.Errorf("read the header's metadata: %w", unexpected(err))
			}
			continue
		}
		tensor, at, err := readEntry(dec, name)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		spans = append(spans, at)
		if err := visit(tensor); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, fmt.Errorf("read the header: %w", unexpected(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("header goes on behind its JSON object")
	}
	return spans, nil
}

func readEntry(dec *json.Decoder, name string) (Tensor, span, error) {
	var entry struct {
		DType   string   `json:"dtype"`
		Shape   []uint64 `json:"shape"`
		Offsets []uint64 `json:"data_offsets"`
	}
	if err := dec.Decode(&entry); err != nil {
		return Tensor{}, span{}, unexpected(err)
	}
	switch {
	case entry.DType == "":
		return Tensor{}, span{}, errors.New("it has no dtype")
	case entry.Shape == nil:
		return Tensor{}, span{}, errors.New("it has no shape")
	case len(entry.Offsets) != 2:
		return Tensor{}, span{}, fmt.Errorf("data_offsets has %d numbers; want begin and end", len(entry.Offsets))
	case entry.Offsets[0] > entry.Offsets[1]:
		return Tensor{}, span{}, fmt.Errorf("data_offsets %v end before they begin", entry.Offsets)
	}
	t := Tensor{Name: name, DType: entry.DType, Shape: entry.Shape, Bytes: entry.Offsets[1] - entry.Offsets[0]}
	if bits := dtypeBits(t.DType); bits > 0 {
		if want := mul(append([]uint64{bits}, t.Shape...)...); want != mul(t.Bytes, 8) {
			return Tensor{}, span{}, fmt.Errorf("%s of shape %v does not take %d bytes", t.DType, t.Shape, t.Bytes)
		}
	}
	return t, span{name: name, begin: entry.Offsets[0], end: entry.Offsets[1]}, nil
}

// checkSpans makes sure that tensors fill the bytes behind the header exactly.
func checkSpans(spans []span, size uint64) error {
	slices.SortFunc(spans, func(a, b span) int {
		switch {
		case a.begin != b.begin && a.begin < b.begin, a.begin == b.begin && a.end < b.end:
			return -1
		case a.begin == b.begin && a.end == b.end:
			return 0
		}
		return 1
	})
	var end uint64
	last := ""
	for _, s := range spans {
		switch {
		case s.end > size:
			return fmt.Errorf("tensor %q ends at %d, behind the %d bytes of data that the file has", s.name, s.end, size)
		case s.begin < end:
			return fmt.Errorf("tensors %q and %q overlap", last, s.name)
		case s.begin > end:
			return fmt.Errorf("bytes %d to %d belong to no tensor", end, s.begin)
		}
		end, last = s.end, s.name
	}
	if end != size {
		return fmt.Errorf("bytes %d to %d belong to no tensor", end, size)
	}
	return nil
}

// dtypeBits is the width of a safetensors type, and 0 for one not known here.
func dtypeBits(dtype string) uint64 {
	switch dtype {
	case "F4":
		return 4
	case "F6_E2M3", "F6_E3M2":
		return 6
	case "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ":
		return 8
	case "I16", "U16", "F16", "BF16":
		return 16
	case "I32", "U32", "F32":
		return 32
	case "I64", "U64", "F64", "C64":
		return 64
	}
	return 0
}

// unexpected turns the end of input, where more was due, into an error that says
// so: io.EOF alone reads like success.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
