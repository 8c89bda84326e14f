package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// Span is the bytes From to To of a file, To not included.
type Span struct{ From, To int64 }

// Bytes is how many bytes the span has.
func (s Span) Bytes() int64 { return s.To - s.From }

// MarshalJSON writes [from,to].
func (s Span) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "[%d,%d]", s.From, s.To), nil }

// UnmarshalJSON reads [from,to].
func (s *Span) UnmarshalJSON(text []byte) error {
	var pair [2]int64
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	s.From, s.To = pair[0], pair[1]
	return nil
}

// Spans are parts of a file: sorted, none empty, none touching the next. The
// zero Spans are no part of it.
type Spans []Span

// Add returns the spans with one more, merged with what it touches. The
// receiver may be overwritten, as by append.
func (s Spans) Add(more Span) Spans {
	if more.From >= more.To {
		return s
	}
	first, _ := slices.BinarySearchFunc(s, more.From, func(have Span, from int64) int { return cmp.Compare(have.To, from) })
	last := first // past the last that touches
	for last < len(s) && s[last].From <= more.To {
		more.From, more.To = min(more.From, s[last].From), max(more.To, s[last].To)
		last++
	}
	return slices.Replace(s, first, last, more)
}

// overlap reports whether any byte of one is in the spans.
func (s Spans) overlap(one Span) bool {
	return slices.ContainsFunc(s, func(have Span) bool { return have.From < one.To && one.From < have.To })
}

// Bytes is how many bytes the spans have together.
func (s Spans) Bytes() int64 {
	var n int64
	for _, span := range s {
		n += span.Bytes()
	}
	return n
}

// Front is where the part that begins at 0 ends.
func (s Spans) Front() int64 {
	if len(s) == 0 || s[0].From > 0 {
		return 0
	}
	return s[0].To
}

// Gap is the first part of a file of size bytes that is in no span; empty if
// there is none.
func (s Spans) Gap(size int64) Span {
	gap := Span{s.Front(), size}
	for _, span := range s {
		if span.From > gap.From {
			gap.To = min(span.From, size)
			break
		}
	}
	return Span{min(gap.From, gap.To), gap.To}
}

// check says whether these can be parts of a file of size bytes.
func (s Spans) check(size int64) bool {
	at := int64(-1)
	for _, span := range s {
		if span.From <= at || span.From < 0 || span.To <= span.From || span.To > size {
			return false
		}
		at = span.To
	}
	return true
}
