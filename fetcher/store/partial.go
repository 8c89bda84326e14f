package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Journal is what is known about a transfer under way. It holds no URL.
type Journal struct {
	FormatVersion int `json:"formatVersion"`
	// Content says what is being transferred: a digest, or source, revision
	// and path. A journal about other content is not used.
	Content string `json:"content"`
	Size    int64  `json:"size"`
	// Offset is how many bytes from the front were synced to disk and hashed.
	Offset int64 `json:"offset"`
	// Hashes are the states of the hashes over those bytes, opaque here.
	Hashes [][]byte `json:"hashes"`
	// Boot is the machine's boot when the journal was written: within one
	// boot, bytes that reached the page cache after the last checkpoint are
	// there for certain, too.
	Boot string `json:"boot"`
}

// Partial is a transfer under way: a file that is written from the front, and
// its journal. One process at a time has it. It is not safe for concurrent use.
type Partial struct {
	path string
	file *os.File
	boot string
	// Journal is the last checkpoint; Offset 0 when there is none that can be
	// used.
	Journal Journal
	// Written is how many bytes from the front are in the file: at least
	// Journal.Offset. What lies between was written in this boot and not
	// hashed yet as far as the journal knows.
	Written int64
	// Waited says that somebody else had the transfer when OpenPartial was
	// called, and may have finished it.
	Waited bool
}

// OpenPartial opens or continues the transfer with this id, which is a sha256
// in hex. While another process has it, OpenPartial waits until ctx ends.
// A damaged journal, or one about other content, begins anew. Disk blocks for
// size bytes are reserved now, so that a full disk shows before the transfer
// (ErrNoSpace).
func (g *Staging) OpenPartial(ctx context.Context, id, content string, size int64) (*Partial, error) {
	if err := checkSHA256(id); err != nil {
		return nil, err
	}
	path := filepath.Join(g.store.dir, "partial", id)
	file, waited, err := openLocked(ctx, path)
	if err != nil {
		return nil, err
	}
	p := &Partial{path: path, file: file, boot: bootID(), Waited: waited}
	if err := p.restore(content, size); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.reserve(size); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// openLocked opens the file and takes its flock. The file may have been
// renamed or removed between the two: then the name is opened again.
func openLocked(ctx context.Context, path string) (f *os.File, waited bool, err error) {
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
		if err != nil {
			return nil, waited, asStoreError(err)
		}
		if err = flock(f); err == nil {
			same, err := sameFile(f, path)
			if err == nil && same {
				return f, waited, nil
			}
			if err := errors.Join(err, f.Close()); err != nil {
				return nil, waited, err
			}
			waited = true
			continue
		}
		if err := f.Close(); err != nil {
			return nil, waited, err
		}
		if !errors.Is(err, ErrBusy) {
			return nil, waited, err
		}
		waited = true
		select {
		case <-ctx.Done():
			return nil, waited, ctx.Err()
		case <-ticker.C:
		}
	}
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

func (p *Partial) journalPath() string { return p.path + ".json" }

// restore decides how much of what is in the file can be used.
func (p *Partial) restore(content string, size int64) error {
	fresh := Journal{FormatVersion: formatVersion, Content: content, Size: size, Boot: p.boot}
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	var j Journal
	err = readJSON(p.journalPath(), &j)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	usable := err == nil && j.FormatVersion == formatVersion && j.Content == content && j.Size == size &&
		j.Offset >= 0 && j.Offset <= info.Size() && info.Size() <= size
	if !usable {
		p.Journal = fresh
		if err := p.file.Truncate(0); err != nil {
			return asStoreError(err)
		}
		// From the first byte on, the journal says whose bytes these are, so
		// that a kill before the first checkpoint loses none of them.
		return p.writeJournal(fresh)
	}
	p.Journal = j
	p.Written = j.Offset
	if j.Boot == p.boot && p.boot != "" {
		p.Written = info.Size()
		return nil
	}
	// After a power cut only what was synced before the journal counts.
	if err := p.file.Truncate(j.Offset); err != nil {
		return asStoreError(err)
	}
	// What is written from here on is of this boot: a kill must not lose it.
	j.Boot = p.boot
	return p.writeJournal(j)
}

// reserve allocates the blocks without changing the file's length, which says
// how much was written.
func (p *Partial) reserve(size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(p.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil // the disk will say so later instead of now
	}
	if err != nil {
		// Some file systems keep what they could allocate: the length as it is
		// gives back what lies behind it.
		return errors.Join(fmt.Errorf("reserve %d bytes: %w", size, asStoreError(err)), p.file.Truncate(p.Written))
	}
	return nil
}

// ReadAt reads back what was written, to hash what the journal does not cover.
func (p *Partial) ReadAt(b []byte, off int64) (int, error) { return p.file.ReadAt(b, off) }

// Write appends at Written.
func (p *Partial) Write(b []byte) (int, error) {
	n, err := p.file.WriteAt(b, p.Written)
	p.Written += int64(n)
	return n, asStoreError(err)
}

// Checkpoint makes everything written so far durable and then says so in the
// journal. hashes are the states over exactly those bytes.
func (p *Partial) Checkpoint(hashes [][]byte) error {
	if err := p.Sync(); err != nil {
		return err
	}
	j := p.Journal
	j.Offset, j.Hashes, j.Boot = p.Written, hashes, p.boot
	return p.writeJournal(j)
}

func (p *Partial) writeJournal(j Journal) error {
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := writeFile(p.journalPath(), data, true); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	p.Journal = j
	return nil
}

// Sync makes the bytes durable.
func (p *Partial) Sync() error { return asStoreError(p.file.Sync()) }

// Reset forgets every byte: they did not verify.
func (p *Partial) Reset() error {
	if err := p.file.Truncate(0); err != nil {
		return asStoreError(err)
	}
	p.Written = 0
	j := p.Journal
	j.Offset, j.Hashes = 0, nil
	return p.writeJournal(j)
}

// Close lets go of the partial; bytes and journal stay for the next try. Closing
// again does nothing.
func (p *Partial) Close() error {
	if err := p.file.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// Discard removes the partial and its journal.
func (p *Partial) Discard() error {
	return errors.Join(removeIfExists(p.journalPath()), removeIfExists(p.path), p.Close())
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
