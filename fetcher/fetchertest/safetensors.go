package fetchertest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// tensor is one named bfloat16 array.
type tensor struct {
	name  string
	shape []int64
}

// bytes is the tensor's size: two bytes an element.
func (t tensor) bytes() int64 {
	n := int64(2)
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// safetensors lays tensors out as one safetensors file: eight bytes of header
// length, a JSON header padded with spaces to a multiple of eight, the data.
// Only the header is kept; the data is generated as it is read.
func safetensors(seed uint64, tensors []tensor) (*Content, error) {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int64  `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var end int64
	for _, t := range tensors {
		header[t.name] = entry{DType: "BF16", Shape: t.shape, Offsets: [2]int64{end, end + t.bytes()}}
		end += t.bytes()
	}
	text, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("write safetensors header: %w", err)
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	head := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	head = append(head, text...)
	return NewContent(&generated{head: head, seed: seed}, int64(len(head))+end), nil
}

// generated is head followed by an endless, deterministic run of small finite
// bfloat16 numbers, each of which depends on its position, so that a byte at a
// wrong offset never goes unnoticed.
type generated struct {
	head []byte
	seed uint64
}

// ReadAt never fails and never ends; Content bounds it.
func (g *generated) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := 0
	if off < int64(len(g.head)) {
		n = copy(p, g.head[off:])
		off += int64(n)
	}
	pos := uint64(off - int64(len(g.head)))
	var word [8]byte
	for n < len(p) {
		v := g.word(pos / 8)
		if pos%8 == 0 && len(p)-n >= 8 {
			binary.LittleEndian.PutUint64(p[n:], v)
			n, pos = n+8, pos+8
			continue
		}
		binary.LittleEndian.PutUint64(word[:], v)
		k := copy(p[n:], word[pos%8:])
		n, pos = n+k, pos+uint64(k)
	}
	return n, nil
}

// word is four bfloat16 numbers: splitmix64 of the position, with the
// exponents held between 2^-15 and 2^-8.
func (g *generated) word(i uint64) uint64 {
	z := g.seed + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return z&0x83ff83ff83ff83ff | 0x3800380038003800
}
