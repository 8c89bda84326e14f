package file_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/file"
	"github.com/stoker-project/stoker/fetcher/store"
)

// meddled is the driver of a directory in which something happens when a part of
// a file has been read.
type meddled struct {
	*file.Driver
	after int
	once  sync.Once
	event func()
}

func (m *meddled) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	body, err := m.Driver.Open(ctx, obj, offset, length)
	return &meddledBody{ReadCloser: body, m: m}, err
}

type meddledBody struct {
	io.ReadCloser
	m    *meddled
	read int
}

// Read gives small pieces, as a pipe between the two would.
func (b *meddledBody) Read(p []byte) (int, error) {
	if b.read >= b.m.after {
		b.m.once.Do(b.m.event)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), 100_000)])
	b.read += n
	return n, err
}

// A file that is written to while it is read is refused, and what was read of it
// counts for nothing: not even when the file is as it was again, to the
// nanosecond.
func TestPullOfWhatChangesMeanwhile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.safetensors")
	was, is := bytes.Repeat([]byte{'A'}, 700_000), bytes.Repeat([]byte{'B'}, 700_000)
	write := func(content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Error(err)
		}
	}
	write(was)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	pull := func(d fetcher.Driver) (fetcher.Result, error) {
		f := fetcher.New(fetcher.Options{
			Store: s, Logger: slog.New(slog.DiscardHandler),
			Drivers: fetcher.Drivers{fetcher.SchemeFile: func(fetcher.Access) (fetcher.Driver, error) { return d, nil }},
		})
		return f.Pull(t.Context(), fetcher.Request{Name: "m", Source: source(dir)})
	}
	if _, err := pull(&meddled{Driver: file.New(), after: 300_000, event: func() { write(is) }}); !errors.Is(err, fetcher.ErrRefused) {
		t.Fatalf("the pull ends with %v", err)
	}
	if all, err := s.Published(); err != nil || len(all) > 0 {
		t.Errorf("published %v, %v", all, err)
	}
	write(was)
	if err := os.Chtimes(path, before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
	res, err := pull(file.New())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(res.Path, "model.safetensors")); err != nil || !bytes.Equal(got, was) {
		t.Errorf("published %d A and %d B, %v", bytes.Count(got, []byte{'A'}), bytes.Count(got, []byte{'B'}), err)
	}
}
