package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Partial is a transfer under way: a file, written in any order, and its
// journal. One process at a time has it. WriteAt, ReadAt, Written and
// Checkpoint are safe for concurrent use, the rest is not.
type Partial struct {
	// Waited says that somebody else had the transfer when OpenPartial was
	// called, and may have finished it.
	Waited bool
	// Hashes are the states of the hashes over the first Hashed bytes as they
	// were at the last checkpoint of whoever began the transfer; Hashed is 0
	// when there is none that can be used.
	Hashed int64
	Hashes [][]byte

	path    string
	store   *Store
	lock    *Lock
	file    *os.File
	content string
	size    int64
	boot    string
	epoch   int64 // of the term; 0 where machines do not take turns
	// foreign: it was begun in another term, and whoever did may still have it open.
	foreign bool
	hashed  fs.FileInfo // what it looked like before it was read back whole because of that

	checkpointing sync.Mutex // one at a time; taken before mu

	mu      sync.Mutex
	log     *os.File // the journal, to append to
	written Spans
	since   Spans // what the checkpoint being written does not cover
	synced  Spans // as the journal's checkpoint has it
	// checkpointed is how long the journal's first line is.
	checkpointed int64
	broken       error // of the disk, which tells an error once
}

// OpenPartial opens or continues the transfer with this id, which is a sha256
// in hex. While another process has it, waiting is called once and OpenPartial
// waits until ctx ends. A damaged journal, or one about other content, begins
// anew. Disk blocks for size bytes are reserved now, so that a full disk shows
// before the transfer (ErrNoSpace).
func (g *Staging) OpenPartial(ctx context.Context, id, content string, size int64, waiting func()) (*Partial, error) {
	if err := checkSHA256(id); err != nil {
		return nil, err
	}
	path := filepath.Join(g.store.dir, "partial", id)
	o, err := g.store.openLocked(ctx, path, waiting)
	if err != nil {
		return nil, err
	}
	p := &Partial{Waited: o.waited, path: path, store: g.store, lock: o.lock, file: o.file, content: content, size: size, boot: bootID()}
	if t := g.store.term.Load(); t != nil {
		p.epoch = t.epoch
	}
	if err := p.restore(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.reserve(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// writeBack is how much is sent to the disk at a time, when its last byte has
// been written.
const writeBack = 4 << 20

// writePiece is how much is given to the kernel at a time. It takes a folio as
// large as that for the page cache, and large ones are hard to come by on a
// machine that has run for a while: written a MiB at a time, the same bytes cost
// up to three times the processor time (see bench).
const writePiece = 64 << 10

func (p *Partial) journalPath() string { return p.path + ".json" }

// ReadAt reads back what was written.
func (p *Partial) ReadAt(b []byte, off int64) (int, error) { return p.file.ReadAt(b, off) }

// WriteAt writes, and notes in the journal what is written: a kill loses
// nothing of it, a power cut what came after the last checkpoint.
func (p *Partial) WriteAt(b []byte, off int64) (int, error) {
	var n int
	var err error
	for n < len(b) && err == nil {
		var m int
		m, err = p.file.WriteAt(b[n:min(n+writePiece, len(b))], off+int64(n))
		n += m
	}
	if n == 0 {
		return 0, asStoreError(err)
	}
	// The disk is to work while the network does, not when all has come. It is no
	// promise of durability, and where it cannot be, nothing is lost.
	if from, to := off/writeBack*writeBack, (off+int64(n))/writeBack*writeBack; to > from {
		_ = unix.SyncFileRange(int(p.file.Fd()), from, to-from, unix.SYNC_FILE_RANGE_WRITE)
	}
	s := Span{off, off + int64(n)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return 0, p.broken
	}
	p.written = p.written.Add(s)
	p.since = p.since.Add(s)
	if _, logErr := p.log.Write(spanLine(s)); err == nil {
		err = logErr
	}
	return n, asStoreError(err)
}

// Written is what is in the file.
func (p *Partial) Written() Spans {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.written)
}

// Front is how many bytes from the file's begin are in it.
func (p *Partial) Front() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written.Front()
}

// Checkpoint makes everything written so far durable and then says so in the
// journal. hashes are the states over the first hashed bytes, which have been
// written.
func (p *Partial) Checkpoint(hashed int64, hashes [][]byte) error {
	p.checkpointing.Lock()
	defer p.checkpointing.Unlock()
	p.mu.Lock()
	synced := slices.Clone(p.written)
	p.since = nil
	p.mu.Unlock()
	if err := p.fail(unix.Fdatasync(int(p.file.Fd()))); err != nil {
		return err
	}
	return p.writeJournal(synced, hashed, hashes)
}

// fail keeps an error of writing back. The kernel takes such pages for clean and
// reports the error to one caller, so what was written since the last checkpoint
// counts no longer, neither here nor for the next try, and every later sync
// fails as well.
func (p *Partial) fail(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil && err != nil {
		p.broken = asStoreError(err)
		p.written, p.since = slices.Clone(p.synced), nil
		if p.log != nil {
			// If not even that can be done, the journal's folder is lost as well.
			_ = p.log.Truncate(p.checkpointed)
		}
	}
	return p.broken
}

// writeJournal replaces the journal. What was written meanwhile is in its
// further lines. If a power cut undoes the renaming, the checkpoint before is
// as true as this one.
func (p *Partial) writeJournal(synced Spans, hashed int64, hashes [][]byte) (err error) {
	j := journal{
		FormatVersion: journalVersion, Content: p.content, Size: p.size, Boot: p.boot, Epoch: p.epoch, Foreign: p.foreign,
		Synced: synced, Hashed: hashed, Hashes: hashes,
	}
	line, err := j.line()
	if err != nil {
		return err
	}
	log, err := p.store.tempFile(filepath.Dir(p.path))
	if err != nil {
		return fmt.Errorf("write journal: %w", asStoreError(err))
	}
	defer func() {
		if err != nil {
			_ = log.Close()
			_ = dropTemp(log.Name()) // best effort: gc collects what stays
			err = fmt.Errorf("write journal: %w", asStoreError(err))
		}
	}()
	if _, err = log.Write(line); err == nil {
		err = log.Chmod(fileMode)
	}
	if err == nil && len(synced) > 0 {
		err = log.Sync() // before it replaces one that is on the disk
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	for _, s := range p.since {
		if _, err = log.Write(spanLine(s)); err != nil {
			return err
		}
	}
	if err = p.store.rename(log.Name(), p.journalPath()); err != nil {
		return err
	}
	old := p.log
	p.log, p.synced, p.checkpointed = log, synced, int64(len(line))
	if old != nil {
		_ = old.Close() // it has no name any more
	}
	return nil
}

// DropCache takes the pages of these bytes, which are no longer needed, out of
// the page cache once they are on the disk.
func (p *Partial) DropCache(s Span) error {
	fd := int(p.file.Fd())
	const written = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(fd, s.From, s.Bytes(), written)
	if err == nil {
		err = unix.Fadvise(fd, s.From, s.Bytes(), unix.FADV_DONTNEED)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil // this file system has no such cache
	}
	return p.fail(err)
}

// Sync makes the bytes durable. It fails if any write-back of them has failed.
func (p *Partial) Sync() error { return p.fail(p.file.Sync()) }

// Reset forgets every byte: they did not verify.
func (p *Partial) Reset() error {
	if err := p.empty(); err != nil {
		return asStoreError(err)
	}
	p.mu.Lock()
	p.written, p.since, p.Hashed, p.Hashes = nil, nil, 0, nil
	p.mu.Unlock()
	if err := p.writeJournal(nil, 0, nil); err != nil {
		return err
	}
	return p.reserve()
}

// Close lets go of the partial; bytes and journal stay for the next try. Closing
// again does nothing.
func (p *Partial) Close() error {
	if p.log != nil {
		_ = p.log.Close() // its lines are in the page cache, or an error was told
	}
	err := p.file.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	return errors.Join(err, p.lock.Unlock())
}

// Discard removes the partial and its journal.
func (p *Partial) Discard() error {
	return errors.Join(p.store.removeIfExists(p.journalPath()), p.store.removeIfExists(p.path), p.Close())
}

// PartialBytes is how much disk the transfer with this id already takes; 0 if
// there is none.
func (s *Store) PartialBytes(id string) (int64, error) {
	info, err := os.Stat(filepath.Join(s.dir, "partial", id))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return diskBytes(info), nil
}

// diskBytes is what a file takes on the disk, or will once it is written back:
// blocks may be reserved behind its end, and not be allocated yet before it.
func diskBytes(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return max(info.Size(), st.Blocks*512)
	}
	return info.Size()
}
