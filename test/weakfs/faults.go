package weakfs

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mode is how a mount fails.
type Mode string

// What a mount may do instead of what it is asked for.
const (
	Healthy Mode = ""
	// Hangs answers nothing until it does something else.
	Hangs Mode = "hangs"
	// Stale answers ESTALE to everything.
	Stale Mode = "stale"
	// ReadOnly refuses what would change the volume, as an export does that has
	// become read-only.
	ReadOnly Mode = "read-only"
	// Full has no room for anything more than Left bytes.
	Full Mode = "full"
)

// state is how one mount fails now.
type state struct {
	mu      sync.Mutex
	mode    Mode
	left    int64
	changed chan struct{} // closed when the mode changes, or what waits is to give up
	gaveUp  bool
}

func (s *state) set(mode Mode, left int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode, s.left = mode, left
	close(s.changed)
	s.changed = make(chan struct{})
}

// giveUp fails what hangs now, so that whoever asked can end.
func (s *state) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed, s.gaveUp = make(chan struct{}), true
}

// ask is what becomes of an operation that only looks.
func (s *state) ask() fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.mode == Hangs {
		changed := s.changed
		s.mu.Unlock()
		<-changed
		s.mu.Lock()
		if s.gaveUp && s.mode == Hangs {
			return fuse.Status(syscall.EINTR)
		}
	}
	s.gaveUp = false
	if s.mode == Stale {
		return fuse.Status(syscall.ESTALE)
	}
	return fuse.OK
}

// change is what becomes of one that changes something, and takes so much room.
func (s *state) change(room int64) fuse.Status {
	if status := s.ask(); !status.Ok() {
		return status
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mode == ReadOnly:
		return fuse.EROFS
	case s.mode == Full && room > 0:
		if s.left < room {
			s.left = 0
			return fuse.Status(syscall.ENOSPC)
		}
		s.left -= room
	}
	return fuse.OK
}

// failing is a file system with a state.
type failing struct {
	fuse.RawFileSystem
	*state
}

// name is how much room a new name takes.
const name = 4096

func (f *failing) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Lookup(cancel, header, name, out)
}

func (f *failing) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.GetAttr(cancel, in, out)
}

func (f *failing) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Statx(cancel, in, out)
}

func (f *failing) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if status := f.change(0); !status.Ok() {
		return status
	}
	return f.RawFileSystem.SetAttr(cancel, in, out)
}

func (f *failing) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, file string, out *fuse.EntryOut) fuse.Status {
	if status := f.change(name); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Mknod(cancel, in, file, out)
}

func (f *failing) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, dir string, out *fuse.EntryOut) fuse.Status {
	if status := f.change(name); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Mkdir(cancel, in, dir, out)
}

func (f *failing) Unlink(cancel <-chan struct{}, header *fuse.InHeader, file string) fuse.Status {
	if status := f.change(0); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Unlink(cancel, header, file)
}

func (f *failing) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, dir string) fuse.Status {
	if status := f.change(0); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Rmdir(cancel, header, dir)
}

func (f *failing) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if status := f.change(0); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Rename(cancel, in, from, to)
}

func (f *failing) Link(cancel <-chan struct{}, in *fuse.LinkIn, file string, out *fuse.EntryOut) fuse.Status {
	if status := f.change(name); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Link(cancel, in, file, out)
}

func (f *failing) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, link string, out *fuse.EntryOut) fuse.Status {
	if status := f.change(name); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Symlink(cancel, header, target, link, out)
}

func (f *failing) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	if status := f.ask(); !status.Ok() {
		return nil, status
	}
	return f.RawFileSystem.Readlink(cancel, header)
}

func (f *failing) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Access(cancel, in)
}

func (f *failing) Create(cancel <-chan struct{}, in *fuse.CreateIn, file string, out *fuse.CreateOut) fuse.Status {
	if status := f.change(name); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Create(cancel, in, file, out)
}

func (f *failing) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if status := f.change(name); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Tmpfile(cancel, in, out)
}

func (f *failing) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	asks := f.ask
	if in.Flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0 {
		asks = func() fuse.Status { return f.change(0) }
	}
	if status := asks(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Open(cancel, in, out)
}

func (f *failing) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if status := f.ask(); !status.Ok() {
		return nil, status
	}
	return f.RawFileSystem.Read(cancel, in, buf)
}

func (f *failing) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if status := f.change(int64(len(data))); !status.Ok() {
		return 0, status
	}
	return f.RawFileSystem.Write(cancel, in, data)
}

func (f *failing) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	room := int64(0)
	for _, d := range data {
		room += int64(len(d))
	}
	if status := f.change(room); !status.Ok() {
		return 0, status
	}
	return f.RawFileSystem.Writev(cancel, in, data)
}

func (f *failing) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if status := f.change(int64(in.Len)); !status.Ok() {
		return 0, status
	}
	return f.RawFileSystem.CopyFileRange(cancel, in)
}

func (f *failing) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if status := f.change(int64(in.Length)); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Fallocate(cancel, in)
}

func (f *failing) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.Fsync(cancel, in)
}

func (f *failing) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.FsyncDir(cancel, in)
}

func (f *failing) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.OpenDir(cancel, in, out)
}

func (f *failing) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.ReadDir(cancel, in, out)
}

func (f *failing) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	return f.RawFileSystem.ReadDirPlus(cancel, in, out)
}

func (f *failing) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if status := f.ask(); !status.Ok() {
		return status
	}
	status := f.RawFileSystem.StatFs(cancel, in, out)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mode == Full && out.Bsize > 0 {
		out.Bavail = uint64(f.left) / uint64(out.Bsize)
		out.Bfree = out.Bavail
	}
	return status
}
