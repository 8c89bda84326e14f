package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// takeOver puts a copy of what is written in the place of a file that an earlier
// writer of a shared store may still have open: a client of NFS that was cut off
// sends what it has in its page cache when it is back, whole pages of it, and
// would overwrite what was published meanwhile. What is copied is what is on the
// volume; the transfer is read back whole before it becomes a blob. Where there is
// no room for a copy, the transfer begins anew.
func (p *Partial) takeOver(ctx context.Context) (err error) {
	f, err := p.store.tempFile(filepath.Dir(p.path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), dropTemp(f.Name()))
		}
	}()
	for _, s := range p.written {
		if err := copySpan(ctx, f, p.file, s); err != nil {
			return fmt.Errorf("copy what another agent has begun: %w", err)
		}
	}
	if err := f.Sync(); err != nil { // the journal says of it what it said of the other
		return err
	}
	if err := p.store.rename(f.Name(), p.path); err != nil {
		return err
	}
	old := p.file
	p.file = f
	return old.Close()
}

// copyPiece is how much is copied between two looks at the context.
const copyPiece = 64 << 20

// copySpan copies bytes to the same place of another file: within the file server,
// where it and the client can (NFS 4.2), or by the kernel.
func copySpan(ctx context.Context, to, from *os.File, s Span) error {
	for s.Bytes() > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, out := s.From, s.From
		n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(min(s.Bytes(), copyPiece)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case unsupported(err), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL):
			_, err := io.Copy(io.NewOffsetWriter(to, s.From), io.NewSectionReader(from, s.From, s.Bytes()))
			return err
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF // it became shorter
		}
		s.From += int64(max(n, 0))
	}
	return nil
}
