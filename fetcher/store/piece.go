package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/minio/crc64nvme"
)

// PieceSize is how many bytes of a transfer have a checksum of their own, at most.
const PieceSize = 256 << 10

// piece is a part of a transfer that one call has written, and the CRC64NVME of
// its bytes: enough to tell bytes that a disk has lost, at the speed of memory.
type piece struct {
	Span
	sum uint64
}

// piecesOf divides what is written at off.
func piecesOf(b []byte, off int64) []piece {
	pieces := make([]piece, 0, (len(b)+PieceSize-1)/PieceSize)
	for len(b) > 0 {
		n := min(len(b), PieceSize)
		pieces = append(pieces, piece{Span{off, off + int64(n)}, crc64nvme.Checksum(b[:n])})
		b, off = b[n:], off+int64(n)
	}
	return pieces
}

func (c piece) check() bool { return c.From >= 0 && c.From < c.To && c.Bytes() <= PieceSize }

// MarshalJSON writes [from,to,checksum].
func (c piece) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d,%d]", c.From, c.To, c.sum), nil
}

// UnmarshalJSON reads [from,to,checksum].
func (c *piece) UnmarshalJSON(text []byte) error {
	var numbers [3]uint64
	if err := json.Unmarshal(text, &numbers); err != nil {
		return err
	}
	c.From, c.To, c.sum = int64(numbers[0]), int64(numbers[1]), numbers[2]
	return nil
}

// readPiece reads a piece into b, which has its length, and compares it with what
// was written; ErrLost.
func (p *Partial) readPiece(c piece, b []byte) error {
	_, err := p.file.ReadAt(b, c.From)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err != nil || crc64nvme.Checksum(b) != c.sum {
		return p.volume.lost(fmt.Sprintf("bytes %d to %d", c.From, c.To))
	}
	return nil
}
