package volumes

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// faults are what a file system cannot do; the zero value can do everything.
type faults struct {
	// flock and renameOver are what the calls are answered, if not OK.
	flock, symlink, rename, fallocate fuse.Status
	// flockLies grants every flock, whoever has it.
	flockLies bool
	// folds keeps names in small letters, as FAT kept them in large, and accents
	// in one of the two ways that Unicode knows.
	folds bool
	// modes keeps the modes that files were made with.
	modes bool
	// disk is what lies below; nil is one without faults.
	disk *disk
	// changes fails what would change it; nil fails nothing.
	changes *changes
}

// disk is one on which files may become unreadable, and which may fail as a whole.
type disk struct {
	mu    sync.Mutex
	bad   map[uint64]bool // inodes
	nodes map[uint64]uint64
	dead  fuse.Status    // what everything that needs the disk is answered, if not OK
	stale map[uint64]int // inodes, and how many reads of each are answered ESTALE
}

// lose answers so many reads of a file as a server does that another client had
// remove it.
func (d *disk) lose(t *testing.T, path string, reads int) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stale = map[uint64]int{st.Ino: reads}
}

func (d *disk) lost(node uint64) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	inode := d.nodes[node]
	if d.stale[inode] == 0 {
		return false
	}
	d.stale[inode]--
	return true
}

// spoil lets nobody read the file any more; its name and size can be seen.
func (d *disk) spoil(t *testing.T, path string) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad == nil {
		d.bad = map[uint64]bool{}
	}
	d.bad[st.Ino] = true
}

// die answers everything that needs the disk with a failure, or nothing any more (fuse.OK).
func (d *disk) die(failure fuse.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = failure
}

func (d *disk) see(out *fuse.EntryOut) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes == nil {
		d.nodes = map[uint64]uint64{}
	}
	d.nodes[out.NodeId] = out.Ino
}

// status is what a call that reads or writes a file is answered, if not OK.
func (d *disk) status(node uint64) fuse.Status {
	if d == nil {
		return fuse.OK
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad[d.nodes[node]] {
		return fuse.EIO
	}
	return d.dead
}

// faulty is the file system of a directory, less its faults.
type faulty struct {
	fuse.RawFileSystem
	faults
}

// mount shows dir at a new path, with faults, until the test ends.
func mount(t *testing.T, dir string, f faults) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what weak file systems do is not tested here")
	}
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := fuse.NewServer(&faulty{fs.NewNodeFS(root, &fs.Options{}), f}, at, &fuse.MountOptions{
		Name: "weak", DirectMountStrict: true,
		// Otherwise the kernel keeps locks itself, and grants them all.
		EnableLocks: true,
		// Otherwise it reads and writes the files below by itself.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
	})
	if err != nil {
		t.Skipf("SKIPPED, no FUSE here (%v): what weak file systems do is not tested", err)
	}
	go server.Serve()
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
		server.Wait()
	})
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	return at
}

func (f *faulty) name(name string) string {
	if f.folds {
		return strings.ReplaceAll(strings.ToLower(name), "e\u0301", "\u00e9")
	}
	return name
}

func (f *faulty) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	switch {
	case !f.flock.Ok():
		return f.flock
	case f.flockLies:
		return fuse.OK
	}
	return f.RawFileSystem.SetLk(cancel, in)
}

func (f *faulty) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	switch {
	case !f.flock.Ok():
		return f.flock
	case f.flockLies:
		return fuse.OK
	}
	return f.RawFileSystem.SetLkw(cancel, in)
}

func (f *faulty) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if !f.symlink.Ok() {
		return f.symlink
	}
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Symlink(cancel, header, target, f.name(name), out)
}

func (f *faulty) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if !f.fallocate.Ok() {
		return f.fallocate
	}
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Fallocate(cancel, in)
}

// Rename refuses to replace: where nothing is in the way, it renames.
func (f *faulty) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if !f.rename.Ok() {
		header := in.InHeader
		header.NodeId = in.Newdir
		var out fuse.EntryOut
		if f.RawFileSystem.Lookup(cancel, &header, f.name(to), &out).Ok() {
			f.Forget(out.NodeId, 1)
			return f.rename
		}
	}
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Rename(cancel, in, f.name(from), f.name(to))
}

func (f *faulty) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	status := f.RawFileSystem.Lookup(cancel, header, f.name(name), out)
	if status.Ok() {
		f.disk.see(out)
	}
	return status
}

func (f *faulty) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if status := f.disk.status(in.NodeId); !status.Ok() {
		return nil, status
	}
	if f.disk.lost(in.NodeId) {
		return nil, fuse.Status(syscall.ESTALE)
	}
	return f.RawFileSystem.Read(cancel, in, buf)
}

func (f *faulty) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if status := f.disk.status(in.NodeId); !status.Ok() {
		return 0, status
	}
	if status := f.changes.nextWrite(); status == loses {
		data = make([]byte, len(data))
	} else if !status.Ok() {
		return 0, status
	}
	return f.RawFileSystem.Write(cancel, in, data)
}

// SetAttr answers as if the mode had been set.
func (f *faulty) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if f.modes {
		in.Valid &^= fuse.FATTR_MODE
	}
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.SetAttr(cancel, in, out)
}

func (f *faulty) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Mkdir(cancel, in, f.name(name), out)
}

func (f *faulty) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	status := f.RawFileSystem.Create(cancel, in, f.name(name), out)
	if status.Ok() {
		f.disk.see(&out.EntryOut)
	}
	return status
}

func (f *faulty) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Unlink(cancel, header, f.name(name))
}

func (f *faulty) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Rmdir(cancel, header, f.name(name))
}

// Fsync may be where a disk tells that it has no room for what was written.
func (f *faulty) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Fsync(cancel, in)
}

// FsyncDir likewise.
func (f *faulty) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := f.changes.next(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.FsyncDir(cancel, in)
}

// A file system of faults would prove nothing if it had others as well.
func TestFaultless(t *testing.T) {
	t.Parallel()
	at := mount(t, t.TempDir(), faults{})
	first, err := os.Create(filepath.Join(at, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := os.Open(filepath.Join(at, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := syscall.Flock(int(first.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(second.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		t.Errorf("a second flock gives %v", err)
	}
	var out bytes.Buffer
	if code := stoker(t, &out, "pull", source(t, nil), "--store", filepath.Join(at, "store")); code != 0 || strings.Contains(out.String(), "WARN") {
		t.Errorf("pull ends with %d: %s", code, out.String())
	}
}
