package store

import (
	"encoding/json"
	"slices"
	"testing"
)

const spansSize = 64

// FuzzSpans holds spans against the plainest way to keep them: a flag a byte.
func FuzzSpans(f *testing.F) {
	f.Add([]byte{0, 4, 8, 12, 4, 8})
	f.Add([]byte{10, 20, 0, 64, 5, 5, 9, 3})
	f.Add([]byte{63, 64, 0, 1, 30, 31, 32, 33, 31, 32})
	f.Fuzz(func(t *testing.T, ends []byte) {
		var spans Spans
		var flags [spansSize]bool
		for ; len(ends) >= 2; ends = ends[2:] {
			span := Span{int64(ends[0]) % (spansSize + 1), int64(ends[1]) % (spansSize + 1)}
			spans = spans.Add(span)
			for i := span.From; i < span.To; i++ {
				flags[i] = true
			}
			checkSpans(t, spans, flags)
		}
	})
}

func checkSpans(t *testing.T, spans Spans, flags [spansSize]bool) {
	t.Helper()
	if !spans.check(spansSize) {
		t.Fatalf("%v are no spans", spans)
	}
	var covered [spansSize]bool
	for _, span := range spans {
		for i := span.From; i < span.To; i++ {
			covered[i] = true
		}
	}
	if covered != flags {
		t.Fatalf("%v cover %v, want %v", spans, covered, flags)
	}
	bytes := int64(0)
	for _, set := range flags {
		if set {
			bytes++
		}
	}
	from := slices.Index(flags[:], false)
	gap := Span{spansSize, spansSize}
	if from >= 0 {
		gap.From = int64(from)
		if to := slices.Index(flags[from:], true); to >= 0 {
			gap.To = gap.From + int64(to)
		}
	}
	if spans.Bytes() != bytes || spans.Front() != gap.From || spans.Gap(spansSize) != gap {
		t.Fatalf("%v: %d bytes, front %d, gap %v; want %d, %v", spans, spans.Bytes(), spans.Front(), spans.Gap(spansSize), bytes, gap)
	}
}

func TestSpansCheck(t *testing.T) {
	for _, bad := range []Spans{{{-1, 2}}, {{2, 2}}, {{3, 2}}, {{0, 2}, {2, 4}}, {{4, 6}, {0, 2}}, {{0, 65}}, {{0, 1 << 62}}} {
		if bad.check(spansSize) {
			t.Errorf("%v pass", bad)
		}
	}
	text, err := json.Marshal(Spans{{0, 2}, {5, 9}})
	if err != nil || string(text) != "[[0,2],[5,9]]" {
		t.Errorf("written as %s, %v", text, err)
	}
	var back Spans
	if err := json.Unmarshal(text, &back); err != nil || !slices.Equal(back, Spans{{0, 2}, {5, 9}}) {
		t.Errorf("read as %v, %v", back, err)
	}
}
