package fetchertest

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
)

// BreakBy sets the knobs that break transfers: by faults that inject puts in force,
// for the requests that match selects of a path. fail is how the source says no,
// by kind.
func (f *Fixture) BreakBy(inject func(Fault) (remove func()), match func(path string) Match, fail map[error]Effect) {
	once := func(path string, effect Effect) {
		inject(Fault{Match: match(path), Times: 1, Effect: effect})
	}
	f.Cut = func(t *testing.T, path string, n int64) {
		t.Helper()
		// On a kept connection that closes before it answers, net/http asks again.
		if d, ok := f.Driver.(interface{ CloseIdleConnections() }); ok {
			d.CloseIdleConnections()
		}
		once(path, CutAfter(n))
	}
	f.Stall = func(t *testing.T, path string, n int64) {
		t.Helper()
		once(path, StallAfter(n))
	}
	f.Spoil = func(t *testing.T, path string, at int64) func() {
		t.Helper()
		return inject(Fault{Match: match(path), Effect: WrongByte(at)})
	}
	f.Fail = func(t *testing.T, path string, kind error) {
		t.Helper()
		once(path, fail[kind])
	}
}

// ObjectOf lists src and returns one of its files, ready to open.
func ObjectOf(tb testing.TB, d fetcher.Driver, src fetcher.Source, path string) fetcher.Object {
	tb.Helper()
	l, err := d.List(tb.Context(), src)
	if err != nil {
		tb.Fatal(err)
	}
	i := slices.IndexFunc(l.Files, func(f fetcher.File) bool { return f.Path == path })
	if i < 0 {
		tb.Fatalf("%s is not listed", path)
	}
	return fetcher.Object{Source: src, Revision: l.Revision, File: l.Files[i]}
}

// ReadFrom opens a file at offset and reads it to its end.
func ReadFrom(ctx context.Context, d fetcher.Driver, obj fetcher.Object, offset int64) ([]byte, error) {
	return ReadRange(ctx, d, obj, offset, obj.File.Size-offset)
}

// ReadRange opens a range of a file and reads it to its end.
func ReadRange(ctx context.Context, d fetcher.Driver, obj fetcher.Object, offset, length int64) ([]byte, error) {
	body, err := d.Open(ctx, obj, offset, length)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(body)
	return got, errors.Join(err, body.Close())
}
