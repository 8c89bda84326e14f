package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		f, err := openTransfer(path)
		if err != nil {
			return opened{}, asStoreError(err)
		}
		lock, err := s.lockPartial(f, filepath.Base(path))
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
		if err := f.Close(); err != nil {
			return opened{}, err
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

// openTransfer opens a transfer's file, made if it is not there. Nothing is written
// into it before a journal went through the fence of a shared store: so what was
// open by then was there before any later writer could begin.
func openTransfer(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode) //nolint:forbidigo // an empty file promises nothing
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

// restore decides how much of what is in the file can be used.
func (p *Partial) restore() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	j, since, err := readJournal(p.journalPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	length := info.Size()
	// Also while it is empty: whoever made it may be about to write.
	p.foreign = p.epoch > 0 && (err != nil || j.Epoch != p.epoch || j.Foreign)
	if err != nil || j.Content != p.content || j.Size != p.size || length > p.size || !j.Synced.check(length) || p.foreign && length == 0 {
		if err := p.empty(); err != nil {
			return asStoreError(err)
		}
		// From the first byte on, the journal says whose bytes these are, so
		// that a kill before the first checkpoint loses none of them.
		return p.writeJournal(nil, 0, nil)
	}
	p.written, p.Hashed, p.Hashes = slices.Clone(j.Synced), j.Hashed, j.Hashes
	if j.Boot == p.boot && p.boot != "" && since.check(length) {
		for _, s := range since {
			p.written = p.written.Add(s)
		}
		p.since = since
	}
	// After a power cut only what was synced counts. What is written from here
	// on is of this boot: a kill must not lose it.
	return p.writeJournal(j.Synced, j.Hashed, j.Hashes)
}

// empty begins the file anew. In a shared store another file takes its place,
// through the fence: another writer may have this one open, or be the one that may
// write.
func (p *Partial) empty() error {
	if !p.store.shared {
		return p.file.Truncate(0)
	}
	f, err := p.store.tempFile(filepath.Dir(p.path))
	if err != nil {
		return err
	}
	if err := p.store.rename(f.Name(), p.path); err != nil {
		return errors.Join(err, f.Close(), dropTemp(f.Name()))
	}
	old := p.file
	p.file, p.foreign, p.hashed = f, false, nil
	return old.Close()
}

// reserve allocates the blocks without changing the file's length.
func (p *Partial) reserve() error {
	if p.size == 0 {
		return nil
	}
	err := unix.Fallocate(int(p.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, p.size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
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

// bootID identifies this boot of the machine; empty where the kernel does not
// tell, which makes every resume take the cautious way.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
