package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// journalVersion is the format of a transfer's journal; one of another format
// costs the transfer.
const journalVersion = 3

// journal is the first line of a transfer's journal: its last checkpoint. Each
// further line is a piece that was written since. It holds no URL.
type journal struct {
	FormatVersion int `json:"formatVersion"`
	// Content says what is being transferred: a digest, or source, revision
	// and path. A journal about other content is not used.
	Content string `json:"content"`
	Size    int64  `json:"size"`
	// Epoch is the writer's term in a shared store. Foreign says that the file was
	// begun in an earlier one.
	Epoch   int64 `json:"epoch,omitempty"`
	Foreign bool  `json:"foreign,omitempty"`
	// Synced is what the file system has said is on the disk: the first Hashed
	// bytes and Pieces.
	Synced Spans `json:"synced"`
	// Hashes are the states of the hashes over the first Hashed bytes; opaque here.
	Hashed int64    `json:"hashed"`
	Hashes [][]byte `json:"hashes"`
	Pieces []piece  `json:"pieces"`
	// Check is a CRC-32C of the line without it. A damaged state would
	// otherwise go unnoticed where the source states no digest.
	Check string `json:"check"`
}

func crc32c(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (j journal) sum() (string, error) {
	j.Check = ""
	line, err := json.Marshal(j)
	return fmt.Sprintf("%08x", crc32c(line)), err
}

// line is the journal's first line, with its check.
func (j journal) line() ([]byte, error) {
	sum, err := j.sum()
	if err != nil {
		return nil, err
	}
	j.Check = sum
	line, err := json.Marshal(j)
	return append(line, '\n'), err
}

// appendLine appends the line that a piece was written: where, the checksum of
// its bytes, and the CRC-32C of these three numbers as text.
func (c piece) appendLine(to []byte) []byte {
	numbers := fmt.Sprintf("%d,%d,%d", c.From, c.To, c.sum)
	return fmt.Appendf(to, "[%s,%d]\n", numbers, crc32c([]byte(numbers)))
}

func parsePieceLine(line []byte) (piece, bool) {
	var numbers [4]uint64
	if json.Unmarshal(line, &numbers) != nil {
		return piece{}, false
	}
	c := piece{Span{int64(numbers[0]), int64(numbers[1])}, numbers[2]}
	return c, c.check() && bytes.Equal(append(line, '\n'), c.appendLine(nil))
}

// maxJournal is how much of a journal is read, in bytes: a piece of a transfer of size
// bytes takes less than 128, and may be in it twice.
func maxJournal(size int64) int64 {
	return min(maxNote+size/PieceSize*4*128, 256<<20)
}

// readJournal returns the last checkpoint and the pieces written since. A
// journal that is damaged, or none, is ErrCorrupt; of the further lines, those
// before the first damaged one count.
func (s *Store) readJournal(path string, size int64) (journal, []piece, error) {
	text, err := s.readSmall(path, maxJournal(size))
	if err != nil {
		return journal{}, nil, err
	}
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	var j journal
	if err := json.Unmarshal(first, &j); err != nil {
		return journal{}, nil, fmt.Errorf("read %s: %w: %w", path, ErrCorrupt, err)
	}
	if sum, err := j.sum(); err != nil || sum != j.Check {
		return journal{}, nil, errors.Join(fmt.Errorf("read %s: its checkpoint is damaged: %w", path, ErrCorrupt), err)
	}
	if j.FormatVersion != journalVersion || !j.Synced.check(j.Size) || !j.consistent() {
		return journal{}, nil, fmt.Errorf("read %s: it is no journal of format %d: %w", path, journalVersion, ErrCorrupt)
	}
	var since []piece
	for len(rest) > 0 {
		line, after, complete := bytes.Cut(rest, []byte("\n"))
		c, ok := parsePieceLine(line)
		if !ok || !complete || c.To > j.Size {
			break
		}
		since, rest = append(since, c), after
	}
	return j, since, nil
}

// consistent reports whether what is synced is exactly what is hashed and the
// pieces: no byte is taken over without a digest of it.
func (j journal) consistent() bool {
	known := Spans{}.Add(Span{0, j.Hashed})
	for _, c := range j.Pieces {
		if !c.check() || known.overlap(c.Span) {
			return false
		}
		known = known.Add(c.Span)
	}
	return j.Hashed >= 0 && slices.Equal(known, j.Synced)
}
