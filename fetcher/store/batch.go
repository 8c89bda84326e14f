package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Small is a small file's verified content, in memory.
type Small struct {
	SHA256 string
	// Key tells the content again, as [Staging.Admit] has it.
	Key     string
	Content []byte
}

// batchMost is how many files are synced at once: enough for the wait to be
// shared, and few enough to hold them open.
const batchMost = 256

// AdmitSmall makes contents blobs, as [Staging.Admit] does with one that was
// transferred, and waits for the disk once for many of them instead of three
// times for each. The caller has verified the bytes; ErrLost says that the file
// system lost some of them. Until they are on the disk
// they have no blob's name: a kill or a power cut before AdmitSmall has returned
// costs the batch, or a part of it, and leaves nothing half-written. Content that
// is here already is kept.
func (g *Staging) AdmitSmall(ctx context.Context, contents []Small) error {
	for _, c := range contents {
		if err := checkSHA256(c.SHA256); err != nil {
			return err
		}
	}
	for len(contents) > 0 {
		n := min(len(contents), batchMost)
		if err := g.admitBatch(ctx, contents[:n]); err != nil {
			return fmt.Errorf("admit %d small files: %w", n, err)
		}
		contents = contents[n:]
	}
	return nil
}

func (g *Staging) admitBatch(ctx context.Context, contents []Small) (err error) {
	b, err := g.store.newBatch()
	if err != nil {
		return asStoreError(err)
	}
	defer func() { err = errors.Join(err, asStoreError(b.close())) }()
	for _, c := range contents {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.add(c.Content); err != nil {
			return asStoreError(err)
		}
	}
	if err := g.store.syncFiles(b.files); err != nil {
		return asStoreError(err)
	}
	if err := g.store.readBackFiles(b, contents); err != nil {
		return err
	}
	return g.store.withLayout(ctx, func() error { return g.admitFiles(b, contents) })
}

// readBackFiles is readBackFile for all files of a batch.
func (s *Store) readBackFiles(b *batch, contents []Small) error {
	var group errgroup.Group
	group.SetLimit(syncFew)
	for i, c := range contents {
		group.Go(func() error { return s.readBackFile(b.path(i), c.Content) })
	}
	return group.Wait()
}

// admitFiles gives the batch's files, which are on the disk, their blobs' names.
func (g *Staging) admitFiles(b *batch, contents []Small) error {
	var plan strings.Builder
	for i, c := range contents {
		if i > 0 {
			plan.WriteByte('\n')
		}
		plan.WriteString(c.SHA256 + " " + c.Key)
	}
	if err := g.appendPlan(plan.String()); err != nil {
		return err
	}
	moved := map[string]*os.File{}
	for i, c := range contents {
		if moved[c.SHA256] != nil || g.store.statBlob(c.SHA256, int64(len(c.Content))) == nil {
			continue
		}
		if err := g.store.rename(b.path(i), g.store.BlobPath(c.SHA256)); err != nil {
			return fmt.Errorf("move content into place: %w", asStoreError(err))
		}
		moved[c.SHA256] = b.files[i]
	}
	if len(moved) == 0 {
		return nil
	}
	if err := syncDir(filepath.Join(g.store.dir, "blobs", "sha256")); err != nil {
		return asStoreError(err)
	}
	for sum, f := range moved {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := g.store.writeRecord(sum, info); err != nil {
			return err
		}
	}
	return nil
}

// batch is a folder of files that have no blob's name yet. Its flock keeps
// collection away from it; after a kill, collection removes it.
type batch struct {
	store *Store
	dir   *os.File
	files []*os.File
}

func (s *Store) newBatch() (*batch, error) {
	path, err := s.tempDir(filepath.Join(s.dir, "partial"), "batch-*")
	if err != nil {
		return nil, err
	}
	dir, err := openDir(path, unix.O_NOFOLLOW)
	if err == nil {
		if s.shared {
			return &batch{store: s, dir: dir}, nil
		}
		if err = flock(dir); err == nil {
			return &batch{store: s, dir: dir}, nil
		}
		err = errors.Join(err, dir.Close())
	}
	return nil, errors.Join(err, dropTemp(path))
}

func (b *batch) path(i int) string { return filepath.Join(b.dir.Name(), strconv.Itoa(i)) }

// add writes one more file, which the world may read whatever the umask.
func (b *batch) add(content []byte) error {
	f, err := b.store.openToWrite(b.path(len(b.files)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, blobMode) // in a folder of its own
	if err != nil {
		return err
	}
	b.files = append(b.files, f)
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Chmod(blobMode)
}

// close removes what was not moved away.
func (b *batch) close() error {
	var errs []error
	for _, f := range b.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(append(errs, dropTemp(b.dir.Name()), b.dir.Close())...)
}

// syncFew is how many files or folders are synced one by one: for more of them
// the whole file system is, if that is not dearer.
const syncFew = 8

// syncFiles makes the files' bytes durable.
func (s *Store) syncFiles(files []*os.File) error {
	if whole, err := s.syncWhole(len(files)); err != nil || !whole {
		if err != nil {
			return err
		}
		var group errgroup.Group
		group.SetLimit(syncFew)
		for _, f := range files {
			group.Go(f.Sync)
		}
		return group.Wait()
	}
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for _, f := range files {
		// syncfs tells of bytes that the disk did not take since Linux 5.8 only.
		if err := unix.SyncFileRange(int(f.Fd()), 0, 0, wait); err != nil {
			return fmt.Errorf("sync %s: %w", f.Name(), err)
		}
	}
	return nil
}

// syncDirs makes the names in the folders durable.
func (s *Store) syncDirs(dirs map[string]bool) error {
	if whole, err := s.syncWhole(len(dirs)); err != nil || whole {
		return err
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// recordsMost is how many records are synced one by one.
const recordsMost = 1024

// syncRecords brings what is known of the files' blobs to the disk, once a model,
// before the model is published: a power cut after that would else have all of it
// hashed before it is called warm again. Of very many files, the large ones count.
// That it did not succeed costs that much and no more, so it is no error.
func (s *Store) syncRecords(files []ManifestFile) {
	if whole, err := s.syncWhole(len(files)); err == nil && whole {
		return
	}
	files = slices.SortedFunc(slices.Values(files), func(a, b ManifestFile) int { return cmp.Compare(b.Size, a.Size) })
	var group errgroup.Group
	group.SetLimit(syncFew)
	for _, f := range files[:min(len(files), recordsMost)] {
		group.Go(func() error { return s.syncPath(s.recordPath(f.SHA256)) })
	}
	if group.Wait() == nil {
		_ = syncDir(s.AgentFile("verified")) // see above
	}
}

func (s *Store) syncPath(path string) error {
	f, _, err := s.openRegular(path, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncWhole syncs the store's file system if there are many things to sync, and
// says whether it did. It would wait for what others have written as well: a
// machine with much memory may hold back more than a disk takes in minutes.
func (s *Store) syncWhole(things int) (bool, error) {
	if things <= syncFew || dirtyBytes() > dirtyMost {
		return false, nil
	}
	volume, err := s.findVolume()
	if err != nil || !volume.Local { // elsewhere it may do nothing (FUSE), or wait for others
		return false, err
	}
	dir, err := openDir(s.dir, 0)
	if err != nil {
		return false, err
	}
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return false, errors.Join(fmt.Errorf("sync the file system of %s: %w", s.dir, err), dir.Close())
	}
	return true, dir.Close()
}

// dirtyMost is how much may wait for this machine's disks when a whole file
// system is synced: about a second of a slow one.
const dirtyMost = 128 << 20

// dirtyBytes is how much waits for this machine's disks; without /proc, more
// than any disk takes.
func dirtyBytes() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return math.MaxInt64
	}
	return parseDirty(string(text))
}

// parseDirty adds up the lines Dirty and Writeback of /proc/meminfo.
func parseDirty(text string) int64 {
	sum, found := int64(0), 0
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "Dirty:" && fields[0] != "Writeback:" {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return math.MaxInt64
		}
		sum += kib << 10
		found++
	}
	if found != 2 {
		return math.MaxInt64
	}
	return sum
}
