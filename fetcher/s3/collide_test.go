package s3_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

func crc32c(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// forge changes the last four bytes of b so that its CRC32C is want. The checksum
// is linear over GF(2): each of the 32 bits changes it by a fixed pattern, and 32
// equations say which bits to flip.
func forge(b []byte, want uint32) []byte {
	b = bytes.Clone(b)
	last := b[len(b)-4:]
	base := crc32c(b)
	start := binary.LittleEndian.Uint32(last)
	var patterns, flips [32]uint32
	for i := range patterns {
		binary.LittleEndian.PutUint32(last, start^1<<i)
		patterns[i], flips[i] = crc32c(b)^base, 1<<i
	}
	// Gauss: make each pattern the only one with its leading bit.
	need, flip := want^base, uint32(0)
	for bit := range 32 {
		pivot := bit
		for patterns[pivot]>>(31-bit)&1 == 0 {
			pivot++
		}
		patterns[bit], patterns[pivot] = patterns[pivot], patterns[bit]
		flips[bit], flips[pivot] = flips[pivot], flips[bit]
		for other := bit + 1; other < 32; other++ {
			if patterns[other]>>(31-bit)&1 == 1 {
				patterns[other] ^= patterns[bit]
				flips[other] ^= flips[bit]
			}
		}
		if need>>(31-bit)&1 == 1 {
			need ^= patterns[bit]
			flip ^= flips[bit]
		}
	}
	binary.LittleEndian.PutUint32(last, start^flip)
	return b
}
