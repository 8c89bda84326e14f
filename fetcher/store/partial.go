package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Partial is a transfer under way: a file, written in any order, and its
// journal. One process at a time has it. WriteAt, ReadBack, Written and
// Checkpoint are safe for concurrent use, the rest is not.
//
// A file system may take bytes and lose them later: it tells one caller, once,
// or nobody if that one was killed. So every error of writing, syncing or closing
// ends trust in what was not synced, what an earlier process wrote and did not
// sync is used only if its bytes are still there ([journal.Pieces]), and what was
// written is never taken for right because it was written.
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
	volume  Volume
	epoch   int64 // of the term; 0 where machines do not take turns
	// foreign: it was begun in another term, and whoever did may still have it open.
	foreign bool
	judged  fs.FileInfo // how it looked before it was read back, nil if it was not

	checkpointing sync.Mutex // one at a time; taken before mu

	mu      sync.Mutex
	log     *os.File // the journal, to append to
	written Spans
	pieces  map[int64]piece // of what is written and not hashed at the last checkpoint, by where they begin
	since   []piece         // what the checkpoint being written does not cover
	synced  Spans           // as the journal's checkpoint has it
	// checkpointed is how long the journal's first line is.
	checkpointed int64
	broken       error // the first of the disk, which reports an error once
}

// OpenPartial opens or continues the transfer with this id, which is a sha256
// in hex. While another process has it, waiting is called once and OpenPartial
// waits until ctx ends. A damaged journal, or one about other content, begins
// anew. Disk blocks for size bytes are reserved now, so that a full disk shows
// before the transfer (ErrNoSpace). What was not synced is read, and used where
// its bytes are still those that were written: up to a checkpoint's interval.
func (g *Staging) OpenPartial(ctx context.Context, id, content string, size int64, waiting func()) (*Partial, error) {
	if err := checkSHA256(id); err != nil {
		return nil, err
	}
	volume, err := g.store.findVolume()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(g.store.dir, "partial", id)
	o, failed, err := g.store.openClean(ctx, path, waiting)
	if err != nil {
		return nil, err
	}
	p := &Partial{Waited: o.waited, path: path, store: g.store, lock: o.lock, file: o.file, content: content, size: size, volume: volume}
	if t := g.store.term.Load(); t != nil {
		p.epoch = t.epoch
	}
	if err := p.restore(ctx, failed); err != nil {
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
// large as that for the page cache, and of more than eight pages
// (PAGE_ALLOC_COSTLY_ORDER) it keeps none at hand for each processor: larger ones
// are hard to come by, and seldom memory that was used lately. Written 64 KiB at a
// time, the same bytes cost up to twice the processor time, a MiB at a time three
// times (see bench).
const writePiece = 32 << 10

func (p *Partial) journalPath() string { return p.path + ".json" }

// ReadBack reads the piece that was written at off into b, which holds PieceSize
// bytes, and returns how many bytes it has. ErrLost if they are not those that
// were written. off is where a call of WriteAt began, or PieceSize bytes behind
// another such place.
func (p *Partial) ReadBack(b []byte, off int64) (int, error) {
	p.mu.Lock()
	c, ok := p.pieces[off]
	p.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("read back: no piece was written at %d", off)
	}
	b = b[:c.Bytes()]
	if err := p.readPiece(c, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteAt writes, and records in the journal what is written: a kill loses
// nothing of it, a power cut what came after the last checkpoint.
func (p *Partial) WriteAt(b []byte, off int64) (int, error) {
	for at := 0; at < len(b); at += writePiece {
		if _, err := p.file.WriteAt(b[at:min(at+writePiece, len(b))], off+int64(at)); err != nil {
			return 0, p.fail(err)
		}
	}
	// The disk is to work while the network does, not when all has come. It is no
	// promise of durability, and where it cannot be, nothing is lost.
	if from, to := off/writeBack*writeBack, (off+int64(len(b)))/writeBack*writeBack; to > from {
		_ = unix.SyncFileRange(int(p.file.Fd()), from, to-from, unix.SYNC_FILE_RANGE_WRITE)
	}
	written := piecesOf(b, off)
	var lines []byte
	for _, c := range written {
		lines = c.appendLine(lines)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return 0, p.broken
	}
	p.add(written)
	if _, err := p.log.Write(lines); err != nil {
		return 0, p.breakOff(err)
	}
	return len(b), nil
}

// add takes over pieces that are written and not covered by a checkpoint; p.mu is
// held.
func (p *Partial) add(written []piece) {
	for _, c := range written {
		p.written = p.written.Add(c.Span)
		p.pieces[c.From] = c
	}
	p.since = append(p.since, written...)
}

// Written is what is in the file.
func (p *Partial) Written() Spans {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.written)
}

// WrittenBytes is how many bytes are in the file.
func (p *Partial) WrittenBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written.Bytes()
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
	// The states of the hashes stand for what they cover.
	maps.DeleteFunc(p.pieces, func(_ int64, c piece) bool { return c.To <= hashed })
	c := checkpoint{synced: slices.Clone(p.written), pieces: slices.Collect(maps.Values(p.pieces)), hashed: hashed, hashes: hashes}
	p.since = nil
	p.mu.Unlock()
	if err := p.fail(unix.Fdatasync(int(p.file.Fd()))); err != nil {
		return err
	}
	return p.writeJournal(c)
}

// checkpoint is what a journal's first line has.
type checkpoint struct {
	synced Spans
	pieces []piece
	hashed int64
	hashes [][]byte
}

// fail keeps an error of the file. The kernel takes pages that it could not write
// for clean and reports the error to one caller, so what was written since the
// last checkpoint counts no longer, neither here nor for the next try, and every
// later call fails as well.
func (p *Partial) fail(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.breakOff(err)
}

// breakOff is fail for whoever holds p.mu.
func (p *Partial) breakOff(err error) error {
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
func (p *Partial) writeJournal(c checkpoint) (err error) {
	j := journal{
		FormatVersion: journalVersion, Content: p.content, Size: p.size, Epoch: p.epoch, Foreign: p.foreign,
		Synced: c.synced, Hashed: c.hashed, Hashes: c.hashes, Pieces: c.pieces,
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
	if err == nil && len(c.synced) > 0 {
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
	var lines []byte
	for _, c := range p.since {
		lines = c.appendLine(lines)
	}
	if _, err = log.Write(lines); err != nil {
		return err
	}
	if err = p.store.moveOver(log.Name(), p.journalPath()); err != nil {
		return err
	}
	old := p.log
	p.log, p.synced, p.checkpointed = log, c.synced, int64(len(line))
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
	clear(p.pieces)
	p.mu.Unlock()
	if err := p.writeJournal(checkpoint{}); err != nil {
		return err
	}
	return p.reserve()
}

// Close lets go of the partial; bytes and journal stay for the next try, unless
// closing reports bytes that were lost. Closing again does nothing.
func (p *Partial) Close() error {
	failed := p.fail(nil)
	err := p.file.Close()
	switch {
	case errors.Is(err, fs.ErrClosed):
		err = nil
	case failed != nil:
		err = nil // the same again, which was returned to whoever wrote
	default:
		err = p.fail(err) // a file system across a network writes now
	}
	if p.log != nil {
		_ = p.log.Close() // a line that is lost costs its piece
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
	info, err := os.Lstat(filepath.Join(s.dir, "partial", id))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
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
