package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// journalVersion is the format of a transfer's journal; one of another format
// costs the transfer.
const journalVersion = 2

// journal is the first line of a transfer's journal: its last checkpoint. Each
// further line is a span that was written since. It holds no URL.
type journal struct {
	FormatVersion int `json:"formatVersion"`
	// Content says what is being transferred: a digest, or source, revision
	// and path. A journal about other content is not used.
	Content string `json:"content"`
	Size    int64  `json:"size"`
	// Boot is the machine's boot in which the further lines are written:
	// within one boot, bytes that reached the page cache are there for certain.
	Boot string `json:"boot"`
	// Epoch is the writer's term in a shared store. Foreign says that the file was
	// begun in an earlier one.
	Epoch   int64 `json:"epoch,omitempty"`
	Foreign bool  `json:"foreign,omitempty"`
	// Synced is what reached the disk.
	Synced Spans `json:"synced"`
	// Hashes are the states of the hashes over the first Hashed bytes, which
	// are synced; opaque here.
	Hashed int64    `json:"hashed"`
	Hashes [][]byte `json:"hashes"`
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

// spanLine is the line that says that a span was written: its ends and their
// CRC-32C.
func spanLine(s Span) []byte {
	ends := fmt.Sprintf("%d,%d", s.From, s.To)
	return fmt.Appendf(nil, "[%s,%d]\n", ends, crc32c([]byte(ends)))
}

func parseSpanLine(line []byte) (Span, bool) {
	var numbers [3]int64
	if json.Unmarshal(line, &numbers) != nil {
		return Span{}, false
	}
	s := Span{numbers[0], numbers[1]}
	ok := s.From >= 0 && s.From < s.To && bytes.Equal(append(line, '\n'), spanLine(s))
	return s, ok
}

// readJournal returns the last checkpoint and the spans written since. A
// journal that is damaged, or none, is ErrCorrupt; of the further lines, those
// before the first damaged one count.
func readJournal(path string) (journal, Spans, error) {
	text, err := os.ReadFile(path)
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
	if j.FormatVersion != journalVersion || !j.Synced.check(j.Size) || j.Hashed < 0 || j.Hashed > j.Synced.Front() {
		return journal{}, nil, fmt.Errorf("read %s: it is no journal of format %d: %w", path, journalVersion, ErrCorrupt)
	}
	var since Spans
	for len(rest) > 0 {
		line, after, complete := bytes.Cut(rest, []byte("\n"))
		s, ok := parseSpanLine(line)
		if !ok || !complete || s.To > j.Size {
			break
		}
		since, rest = since.Add(s), after
	}
	return j, since, nil
}
