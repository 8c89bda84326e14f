package file_test

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/file"
)

func TestPull(t *testing.T) {
	fetchertest.TestPull(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
		t.Helper()
		f := fixture(t, files)
		v := &volume{Driver: file.New()}
		f.Driver = v
		f.Cut = func(t *testing.T, path string, n int64) {
			t.Helper()
			v.disturb(path, n, func(context.Context) error { return io.ErrUnexpectedEOF })
		}
		f.Stall = func(t *testing.T, path string, n int64) {
			t.Helper()
			v.disturb(path, n, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}
		return f
	})
}

// volume is a driver of a directory that has a fault: the next reader of a path
// gets so many bytes, and then what happens.
type volume struct {
	*file.Driver
	mu    sync.Mutex
	path  string
	after int64
	what  func(context.Context) error
}

func (v *volume) disturb(path string, after int64, what func(context.Context) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.path, v.after, v.what = path, after, what
}

// Open implements fetcher.Driver.
func (v *volume) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	body, err := v.Driver.Open(ctx, obj, offset, length)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || v.what == nil || v.path != obj.File.Path {
		return body, err
	}
	what := v.what
	v.what = nil
	return &disturbed{body, v.after, func() error { return what(ctx) }}, nil
}

type disturbed struct {
	io.ReadCloser
	left int64
	what func() error
}

// Read implements io.Reader.
func (d *disturbed) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, d.what()
	}
	n, err := d.ReadCloser.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, err
}
