package sizing

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
)

const (
	// maxHeader is the longest header that the safetensors library itself accepts.
	maxHeader = 100_000_000
	// maxRank bounds the dimensions of a tensor: those of weights have up to 5.
	maxRank = 16
)

// Tensor is one entry of a safetensors header.
type Tensor struct {
	Name  string
	DType string   // as the file says it: "BF16", "F8_E4M3", "I32", ...
	Shape []uint64 // empty for a scalar; valid until visit returns
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
// after it, at most 100 MB, and never holds all of it: a tensor takes about 50
// bytes. It refuses what no model has: more than 16 dimensions, names of more than
// 4096 bytes, and more than a million tensors.
func ReadHeader(r io.Reader, size int64, visit func(Tensor) error) error {
	return newHeaders().read(r, size, func(t Tensor, _ bool) error { return visit(t) })
}

// headers are those of all files of a model.
type headers struct {
	bytes uint64 // so far
	files uint32
	// names holds the last file with a name. They are hashed, for a name is as long
	// as a file wants it.
	seed  maphash.Seed
	names map[uint64]uint32
}

func newHeaders() *headers {
	return &headers{seed: maphash.MakeSeed(), names: map[uint64]uint32{}}
}

// read reads one more header; again says that an earlier one has a tensor of that name.
func (all *headers) read(r io.Reader, size int64, visit func(t Tensor, again bool) error) error {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return fmt.Errorf("read the header's length: %w", unexpected(err))
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	switch {
	case string(prefix[:]) == pointerStart[:len(prefix)]:
		return errPointer
	case length > maxHeader:
		return fmt.Errorf("header of %d bytes is longer than %d, the most there may be", length, maxHeader)
	case size < 8 || length > uint64(size)-8:
		return fmt.Errorf("header of %d bytes is longer than the file of %d", length, size)
	case length > maxHeaders-all.bytes:
		return fmt.Errorf("%w: the headers of its files are longer than %d bytes together", ErrTooLarge, maxHeaders)
	}
	all.bytes += length
	all.files++
	h := headerReader{headers: all, json: newJSONScanner(io.LimitReader(r, int64(length))), data: uint64(size) - 8 - length, visit: visit}
	err := h.json.object(h.member)
	if err == nil {
		err = h.json.end()
	}
	if err != nil {
		return fmt.Errorf("read the header: %w", err)
	}
	return h.checkSpans()
}

// headerReader reads one header.
type headerReader struct {
	*headers
	json  *jsonScanner
	data  uint64 // bytes behind the header
	visit func(t Tensor, again bool) error
	spans []span

	tensor  Tensor // the one being read
	dtype   string // of the last one
	offsets []uint64
}

// span is where tensors lie in the bytes behind the header.
type span struct{ begin, end uint64 }

func (h *headerReader) member(key []byte) error {
	hash := maphash.Bytes(h.seed, key)
	file, again := h.names[hash]
	switch {
	case file == h.files: // the first file is 1
		return fmt.Errorf("tensor %q stands twice in it", key)
	case !again && len(h.names) >= maxTensors:
		return tooManyTensors()
	}
	h.names[hash] = h.files
	if string(key) == "__metadata__" {
		if err := h.json.object(func([]byte) error { return h.json.skipString() }); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		return nil
	}
	h.tensor = Tensor{Name: string(key), Shape: h.tensor.Shape[:0]}
	at, err := h.entry()
	if err == nil && at.end > h.data {
		err = fmt.Errorf("it ends at %d, behind the %d bytes of data that the file has", at.end, h.data)
	}
	if err != nil {
		return fmt.Errorf("tensor %q: %w", h.tensor.Name, err)
	}
	if last := len(h.spans) - 1; last >= 0 && h.spans[last].end == at.begin {
		h.spans[last].end = at.end // as it is in most files
	} else {
		h.spans = append(h.spans, at)
	}
	return h.visit(h.tensor, again)
}

func (h *headerReader) entry() (span, error) {
	t := &h.tensor
	shaped := false
	h.offsets = h.offsets[:0]
	err := h.json.object(func(key []byte) (err error) {
		switch string(key) {
		case "dtype":
			var text []byte
			if text, err = h.json.string(); string(text) != h.dtype {
				h.dtype = string(text)
			}
			t.DType = h.dtype
		case "shape":
			shaped = true
			t.Shape, err = h.numbers(t.Shape[:0], maxRank, "dimensions")
		case "data_offsets":
			h.offsets, err = h.numbers(h.offsets[:0], 2, "data_offsets")
		default:
			err = h.json.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return span{}, err
	case t.DType == "":
		return span{}, errors.New("it has no dtype")
	case !shaped:
		return span{}, errors.New("it has no shape")
	case len(h.offsets) != 2:
		return span{}, fmt.Errorf("data_offsets has %d numbers; want begin and end", len(h.offsets))
	}
	at := span{begin: h.offsets[0], end: h.offsets[1]}
	if at.begin > at.end {
		return span{}, fmt.Errorf("data_offsets %v end before they begin", h.offsets)
	}
	t.Bytes = at.end - at.begin
	if bits := dtypeBits(t.DType); bits > 0 && mul(bits, t.elements()) != mul(t.Bytes, 8) {
		return span{}, fmt.Errorf("%s of shape %v does not take %d bytes", t.DType, t.Shape, t.Bytes)
	}
	return at, nil
}

// numbers appends a list of at most most numbers to list.
func (h *headerReader) numbers(list []uint64, most int, what string) ([]uint64, error) {
	err := h.json.array(func() error {
		if len(list) == most {
			return fmt.Errorf("it has more than %d %s", most, what)
		}
		n, err := h.json.uint()
		list = append(list, n)
		return err
	})
	return list, err
}

// checkSpans makes sure that tensors fill the bytes behind the header exactly.
func (h *headerReader) checkSpans() error {
	slices.SortFunc(h.spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end)) })
	var end uint64
	for _, s := range h.spans {
		switch {
		case s.begin < end:
			return fmt.Errorf("tensors overlap at byte %d", s.begin)
		case s.begin > end:
			return fmt.Errorf("bytes %d to %d belong to no tensor", end, s.begin)
		}
		end = s.end
	}
	if end != h.data {
		return fmt.Errorf("bytes %d to %d belong to no tensor", end, h.data)
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
