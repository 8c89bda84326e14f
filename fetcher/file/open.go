package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stoker-project/stoker/fetcher"
)

// Open implements [fetcher.Driver]. The revision is not looked at: the file's
// own size and modification time are compared, before the first and after the
// last byte of the range.
func (d *Driver) Open(ctx context.Context, obj fetcher.Object, offset, length int64) (io.ReadCloser, error) {
	f := obj.File
	op := operation{"open", f.Path + " of " + obj.Source.String()}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("open %s: %w", op.origin, ctx.Err())
	case obj.Source.Scheme != fetcher.SchemeFile || !filepath.IsLocal(filepath.FromSlash(f.Path)):
		return nil, op.fail(fetcher.ErrRefused, errors.New("it is no file of a directory"), "list the source first")
	}
	if err := f.CheckRange(offset, length); err != nil {
		return nil, op.fail(fetcher.ErrRefused, err, "list the source again")
	}
	t, err := openTree(op, obj.Source.Path, d.followLinks)
	if err != nil {
		return nil, err
	}
	file, err := t.open(filepath.FromSlash(f.Path), openToRead)
	if err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, op: op, file: file, want: f, left: length}
	if err := r.unchanged(); err != nil {
		_ = file.Close()
		return nil, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		_ = file.Close()
		return nil, op.classify(err)
	}
	r.op.verb = "read"
	return r, nil
}

// openToRead does not wait for the other end of a pipe that took a file's place.
const openToRead = os.O_RDONLY | syscall.O_NONBLOCK

// reader reads one file and ends without an error only if the file is still
// the listed one.
type reader struct {
	ctx  context.Context //nolint:containedctx // the reader lives as long as the ctx of Open, by contract
	op   operation
	file *os.File
	want fetcher.File
	left int64
	done bool
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.op.origin, err)
	}
	if r.left == 0 {
		return 0, r.end()
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.file.Read(p)
	r.left -= int64(n)
	switch {
	case r.left == 0:
		return n, r.end()
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		return n, r.changed("it ends %d bytes early", r.left)
	}
	return n, r.op.classify(err)
}

// end is io.EOF if the file did not change in the meantime.
func (r *reader) end() error {
	if !r.done {
		if err := r.unchanged(); err != nil {
			return err
		}
		r.done = true
	}
	return io.EOF
}

func (r *reader) unchanged() error {
	info, err := r.file.Stat()
	switch {
	case err != nil:
		return r.op.classify(err)
	case !info.Mode().IsRegular():
		return r.changed("it is no regular file any more")
	case info.Size() != r.want.Size:
		return r.changed("it has %d bytes, %d were listed", info.Size(), r.want.Size)
	case version(info) != r.want.Version:
		return r.changed("it was modified at %s", info.ModTime().UTC().Format("2006-01-02T15:04:05.999999999Z"))
	}
	return nil
}

func (r *reader) changed(format string, args ...any) error {
	return r.op.fail(fetcher.ErrRefused, fmt.Errorf("the file changed: "+format, args...), "let nothing write to the directory while it is read, and pull again")
}

// Close implements io.Closer. Who stops before the end hears now whether the
// file is still the listed one.
func (r *reader) Close() error {
	var err error
	if !r.done {
		err = r.unchanged()
	}
	return errors.Join(err, r.file.Close())
}
