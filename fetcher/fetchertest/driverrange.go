package fetchertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/stoker-project/stoker/fetcher"
)

func testOpenRanges(s *suite) {
	t := s.t
	l := s.list(t)
	for _, f := range l.Files {
		obj := fetcher.Object{Source: s.Source, Revision: l.Revision, File: f}
		for _, span := range [][2]int64{
			{0, f.Size}, {1, f.Size - 1}, {f.Size / 2, f.Size - f.Size/2}, // to the end
			{0, f.Size / 2}, {0, f.Size - 1}, // the front
			{f.Size / 3, f.Size / 3}, {1, f.Size - 2}, // the middle
			{0, 1}, {f.Size / 2, 1}, {f.Size - 2, 1}, {f.Size - 1, 1}, // one byte
			{0, 0}, {f.Size / 2, 0}, {f.Size, 0}, // none
		} {
			if f.CheckRange(span[0], span[1]) != nil {
				continue // the file is too short to have one
			}
			if err := s.checkRange(t.Context(), obj, span[0], span[1]); err != nil {
				t.Error(err)
			}
		}
	}
}

// checkRange reads a range to its end and says what is wrong with it.
func (s *suite) checkRange(ctx context.Context, obj fetcher.Object, offset, length int64) error {
	what := fmt.Sprintf("%d bytes of %s at %d", length, obj.File.Path, offset)
	body, err := s.Driver.Open(ctx, obj, offset, length)
	if err != nil {
		return fmt.Errorf("open %s: %w", what, err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	if want := s.files[obj.File.Path][offset : offset+length]; !bytes.Equal(got, want) {
		return fmt.Errorf("read %s: %d bytes that differ from those", what, len(got))
	}
	if n, err := body.Read(make([]byte, 8)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %d bytes and %v after the end", what, n, err) //nolint:errorlint // err may be nil
	}
	if err := body.Close(); err != nil {
		return fmt.Errorf("close %s: %w", what, err)
	}
	return nil
}

func testOpenOutside(s *suite) {
	t := s.t
	obj := s.object(t, smallFile)
	size := obj.File.Size
	for _, span := range [][2]int64{
		{-1, 1},
		{-1, 0},
		{0, -1},
		{size, -1},
		{0, size + 1},
		{1, size},
		{size, 1},
		{size + 1, 0},
		{size + 1, -1},
		{1, math.MaxInt64},
		{math.MaxInt64, 1},
		{math.MaxInt64, math.MaxInt64},
		{math.MinInt64, math.MaxInt64},
		{size, math.MinInt64},
	} {
		body, err := s.Driver.Open(t.Context(), obj, span[0], span[1])
		if err == nil {
			_ = body.Close()
			t.Errorf("%d bytes at %d of %d is no error", span[1], span[0], size)
			continue
		}
		s.wantKind(t, err, fetcher.ErrRefused)
	}
}

// Whoever reads a range to its last byte has its connection for the next: a model
// takes thousands of ranges.
func testOpenKeeps(s *suite) {
	t := s.t
	for _, path := range []string{bigFile, smallFile} {
		obj := s.object(t, path)
		var fresh, kept atomic.Int32
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			if info.Reused {
				kept.Add(1)
			} else {
				fresh.Add(1)
			}
		}})
		read := func(offset, length int64) {
			body, err := s.Driver.Open(ctx, obj, offset, length)
			if err != nil {
				t.Fatal(err)
			}
			// Not to io.EOF: whoever counts bytes does not ask for it.
			if _, err := io.ReadFull(body, make([]byte, length)); err != nil {
				t.Error(err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		}
		read(0, 2)
		if fresh.Load()+kept.Load() == 0 {
			t.Fatal("the driver's connections are not seen")
		}
		fresh.Store(0)
		read(3, 5)
		read(obj.File.Size/2, 4)
		read(obj.File.Size-6, 6)
		if n := fresh.Load(); n != 0 {
			t.Errorf("%s: three more ranges took %d more connections", path, n)
		}
	}
}
