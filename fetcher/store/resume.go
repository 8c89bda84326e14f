package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// opened is a transfer's file and its lock. waited says that somebody else had it
// before.
type opened struct {
	file   *os.File
	lock   *Lock
	waited bool
}

// openLocked opens the file and takes its lock. The file may have been renamed or
// removed between the two: then the name is opened again.
func (s *Store) openLocked(ctx context.Context, path string, waiting func()) (o opened, err error) {
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		f, err := s.openTransfer(path)
		if err != nil && !errors.Is(err, ErrBusy) {
			return opened{}, asStoreError(err)
		}
		var lock *Lock
		if err == nil {
			lock, err = s.lockPartial(f, filepath.Base(path))
		}
		if err == nil {
			same, err := sameFile(f, path)
			if err == nil && same {
				return opened{file: f, lock: lock, waited: o.waited}, nil
			}
			if err := errors.Join(err, lock.Unlock(), f.Close()); err != nil {
				return opened{}, err
			}
			o.waited = true
			continue
		}
		if f != nil {
			if err := f.Close(); err != nil {
				return opened{}, err
			}
		}
		if !errors.Is(err, ErrBusy) {
			return opened{}, err
		}
		if !o.waited && waiting != nil {
			waiting()
		}
		o.waited = true
		select {
		case <-ctx.Done():
			return opened{}, ctx.Err()
		case <-ticker.C:
		}
	}
}

// openClean is openLocked for whoever is going to write. A file whose write-back
// failed while nobody had it open says so to whoever has it next: failed says that
// it did, and that it was opened anew since.
func (s *Store) openClean(ctx context.Context, path string, waiting func()) (o opened, failed bool, err error) {
	o, err = s.openLocked(ctx, path, waiting)
	if err != nil {
		return opened{}, false, err
	}
	if syncErr := unix.Fdatasync(int(o.file.Fd())); syncErr == nil {
		return o, false, nil
	}
	waited := o.waited
	_ = o.file.Close() // it may report the same once more
	if err := o.lock.Unlock(); err != nil {
		return opened{}, true, err
	}
	o, err = s.openLocked(ctx, path, waiting)
	if err != nil {
		return opened{}, true, err
	}
	o.waited = o.waited || waited
	if err := unix.Fdatasync(int(o.file.Fd())); err != nil {
		return opened{}, true, errors.Join(fmt.Errorf("sync %s: %w", path, asStoreError(err)), o.lock.Unlock(), o.file.Close())
	}
	return o, true, nil
}

// openTransfer opens a transfer's file, made if it is not there, or if what is there
// may not be written. Nothing is written into it before a journal went through the
// fence of a shared store: so what was open by then was there before any later writer
// could begin. Pods cannot open it, and so not lock it.
func (s *Store) openTransfer(path string) (*os.File, error) {
	f, _, err := s.openPlace(path, os.O_RDWR|os.O_CREATE, lockMode, s.mayChange)
	return f, err
}

func sameFile(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, named), nil
}

// restore decides how much of what is in the file can be used. failed says that
// bytes which were not synced have been lost.
func (p *Partial) restore(ctx context.Context, failed bool) error {
	p.pieces = map[int64]piece{}
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	j, since, err := p.store.readJournal(p.journalPath(), p.size)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	length := info.Size()
	// Also while it is empty: whoever made it may be about to write.
	taken := p.epoch > 0 && (err != nil || j.Epoch != p.epoch)
	p.foreign = taken || p.epoch > 0 && j.Foreign
	if err != nil || j.Content != p.content || j.Size != p.size || length > p.size || !j.Synced.check(length) || p.foreign && length == 0 {
		if err := p.empty(); err != nil {
			return asStoreError(err)
		}
		// From the first byte on, the journal says whose bytes these are, so
		// that a kill before the first checkpoint loses none of them.
		return p.writeJournal(checkpoint{})
	}
	p.written, p.Hashed, p.Hashes = slices.Clone(j.Synced), j.Hashed, j.Hashes
	for _, c := range j.Pieces {
		p.pieces[c.From] = c
	}
	if !failed {
		if since, err = p.intact(ctx, since, length); err != nil {
			return err
		}
		p.add(since)
	}
	if taken {
		err := p.takeOver(ctx)
		if errors.Is(asStoreError(err), ErrNoSpace) {
			return p.Reset()
		}
		if err != nil {
			return asStoreError(err)
		}
	}
	return p.writeJournal(checkpoint{synced: j.Synced, pieces: j.Pieces, hashed: j.Hashed, hashes: j.Hashes})
}

// intact returns those of the pieces that an earlier process wrote and did not
// sync, of which the file of length bytes still has what was written. Where the
// file system is not [Volume.Local], what the page cache holds proves nothing, and
// they are read from where another machine would read them.
func (p *Partial) intact(ctx context.Context, since []piece, length int64) ([]piece, error) {
	if len(since) == 0 || !p.volume.Local && !evict(p.file, length) {
		return nil, nil
	}
	var kept []piece
	known := slices.Clone(p.written)
	b := make([]byte, PieceSize)
	for _, c := range since {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// What cannot be read is as lost as what is something else.
		if known.overlap(c.Span) || p.readPiece(c, b[:c.Bytes()]) != nil {
			continue
		}
		known, kept = known.Add(c.Span), append(kept, c)
	}
	return kept, nil
}

// empty begins the file anew. In a shared store another file takes its place,
// through the fence: another writer may have this one open, or be the one that may
// write. So it does where this one has a second name by now, or its name is another
// file's.
func (p *Partial) empty() error {
	if !p.store.shared && p.own() == nil {
		return p.file.Truncate(0)
	}
	f, err := p.store.tempFile(filepath.Dir(p.path))
	if err != nil {
		return err
	}
	if !p.store.shared {
		err = flock(f) // before others see it
	}
	if err == nil {
		err = p.store.moveOver(f.Name(), p.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), dropTemp(f.Name()))
	}
	old := p.file
	p.file, p.foreign, p.judged = f, false, nil
	return old.Close()
}

// own reports, as ErrLost, that the transfer's file has another name as well, or no
// longer its own: then somebody else works in the store's folder.
func (p *Partial) own() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	same := true // in a shared store, moving the file finds out whose term it is
	if !p.store.shared {
		same, err = sameFile(p.file, p.path)
	}
	switch {
	case err != nil:
		return err
	case !same:
		return &worded{ErrLost, fmt.Sprintf("another file has taken the place of %s", p.path)}
	case names(info) > 1:
		return &worded{ErrLost, fmt.Sprintf("%s has %d names, so others may write into it", p.path, names(info))}
	}
	return nil
}

// reserve allocates the blocks; where the file system can do so only together with
// the file's length, it gets its length as well.
func (p *Partial) reserve() error {
	if p.size == 0 {
		return nil
	}
	err := fallocate(p.file, p.size)
	if unsupported(err) {
		return nil // the disk will say so later instead of now
	}
	if err != nil {
		// Some file systems keep what they could allocate: the length as it is
		// gives back what lies behind it.
		info, statErr := p.file.Stat()
		if statErr == nil {
			statErr = p.file.Truncate(info.Size())
		}
		return errors.Join(fmt.Errorf("reserve %d bytes: %w", p.size, asStoreError(err)), statErr)
	}
	return nil
}
