package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Volume is what the file system under a store can do, as [Store.Probe] found.
type Volume struct {
	// Mount names it. Where the kernel does not tell, Type is a number and Point the
	// store.
	Mount
	// Local says that the file system is this machine's own, and of those that
	// report each write that failed to whoever syncs the file. Elsewhere (NFS, FUSE,
	// whatever is not known) a server or another program may lose what it has taken,
	// so what was written there is read back before it is published.
	Local bool
	// Reserves says that blocks can be reserved before they are written
	// (fallocate), so that a full disk shows before a transfer and not in it.
	Reserves bool
	// FoldsCase says that names that differ in nothing but case name one file.
	FoldsCase bool
	// MaxFile is how many bytes a file can have at most.
	MaxFile int64
}

// Probe finds out what the store's file system can do, by doing it with a few
// empty files under agent. Without locks that exclude, symlinks, renames
// that replace, and files that all may read, no store can keep what it promises: that is ErrUnfit, and the
// error names the file system and everything that it lacks. Other errors say
// that it could not be found out. What was found is remembered for as long as
// the store is open.
func (s *Store) Probe() (Volume, error) {
	if err := s.checkWritable(); err != nil {
		return Volume{}, err
	}
	v, err := s.findVolume()
	if err != nil {
		return Volume{}, fmt.Errorf("use store %s: %w", s.dir, err)
	}
	return v, nil
}

func (s *Store) findVolume() (Volume, error) {
	s.probe.Lock()
	defer s.probe.Unlock()
	if s.volume != nil {
		return *s.volume, nil
	}
	dir, locks := filepath.Join(s.dir, "agent"), true
	if s.shared {
		t, err := s.now()
		if err != nil {
			return Volume{}, err
		}
		dir, locks = t.dir, false
	}
	v, err := probeVolume(dir, locks)
	if err != nil {
		return Volume{}, asStoreError(err)
	}
	s.volume = &v
	return v, nil
}

// probeShared is findVolume before a term is in force.
func (s *Store) probeShared(t *term) (Volume, error) {
	s.probe.Lock()
	defer s.probe.Unlock()
	v, err := probeVolume(t.dir, false)
	if err != nil {
		return Volume{}, t.fenced(asStoreError(err))
	}
	s.volume = &v
	return v, nil
}

// probeVolume tries in dir what a store does, with locks if it needs any.
func probeVolume(dir string, locks bool) (v Volume, err error) {
	v = volumeAt(dir)
	open := os.OpenFile
	if v.lends() {
		open = openUnlent
	}
	f, err := open(filepath.Join(dir, tempPrefix+"probe-"+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, tempMode)
	if err != nil {
		return v, err
	}
	p := &probe{path: f.Name(), file: f}
	defer func() { err = errors.Join(err, p.clean()) }()
	var missing []string
	tries := []func() (string, error){p.locks, p.symlinks, p.modes, p.renames}
	if !locks {
		tries = tries[1:]
	}
	for _, try := range tries {
		lacks, err := try()
		if err != nil {
			return v, err
		}
		if lacks != "" {
			missing = append(missing, lacks)
		}
	}
	if len(missing) > 0 {
		return v, v.unfit(strings.Join(missing, ", and "))
	}
	if v.Reserves, err = p.reserves(); err != nil {
		return v, err
	}
	if v.FoldsCase, err = p.foldsCase(); err != nil {
		return v, err
	}
	v.MaxFile = p.maxFile()
	return v, nil
}

// volumeAt names what path is on, and knows nothing about it yet.
func volumeAt(path string) Volume {
	v := Volume{Mount: mountOf(path), MaxFile: math.MaxInt64}
	v.Local = isLocal(v.Type)
	return v
}

// isLocal tells [Volume.Local] by the file system's type.
func isLocal(fsType string) bool {
	switch fsType {
	case "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "tmpfs":
		return true
	}
	return false
}

// volumeNow is the volume as Probe found it, or as much of it as can be told
// without trying anything.
func (s *Store) volumeNow() Volume {
	s.probe.Lock()
	defer s.probe.Unlock()
	if s.volume != nil {
		return *s.volume
	}
	return volumeAt(s.dir)
}

// isLocal is [Volume.Local] of a store that may be open to be read only.
func (s *Store) isLocal() bool { return s.volumeNow().Local }

// lost is the error of a file system that gives back other bytes than it took.
func (v Volume) lost(what string) error {
	return &worded{ErrLost, fmt.Sprintf("%s, gave back something else than was written: %s", v, what)}
}

func (v Volume) unfit(lacks string) error {
	return &worded{ErrUnfit, fmt.Sprintf("%s, cannot hold a store: it %s; choose a directory on a local file system like ext4 or xfs", v, lacks)}
}

// Fits reports why files of these sizes cannot be in the store together, however
// much room there is, or nil: ErrFileTooLarge, or ErrUnfit where two names are
// one.
func (v Volume) Fits(sizes map[string]int64) error {
	folded := map[string]string{}
	for _, path := range slices.Sorted(maps.Keys(sizes)) {
		if size := sizes[path]; size > v.MaxFile {
			return &worded{ErrFileTooLarge, fmt.Sprintf("%s has %d bytes, and %s, holds files of at most %d", path, size, v, v.MaxFile)}
		}
		if !v.FoldsCase {
			continue
		}
		for name := path; name != "."; name = filepath.Dir(name) {
			fold := strings.ToLower(name)
			if other, ok := folded[fold]; ok && other != name {
				return v.oneName(other, name)
			}
			folded[fold] = name
		}
	}
	return nil
}

func (v Volume) oneName(a, b string) error {
	return &worded{ErrUnfit, fmt.Sprintf("%s, takes %q and %q for one name; choose a directory on a file system that tells them apart, or leave one out", v, a, b)}
}

// probe is one look at a file system, with a file and a few names beside it.
type probe struct {
	path string
	file *os.File
}

func (p *probe) other() string { return p.path + "-other" }

func (p *probe) clean() error {
	return errors.Join(p.file.Close(), dropTemp(p.path), dropTemp(p.other()))
}

// locks tells whether flock is there and keeps a second open file out. It has
// nothing to say about other machines.
func (p *probe) locks() (lacks string, err error) {
	second, err := os.OpenFile(p.path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, second.Close()) }()
	err = flock(p.file)
	if err == nil {
		err = flock(second)
	}
	switch {
	case err == nil:
		return "gives one flock to two at once, so two pulls would write over each other", nil
	case errors.Is(err, ErrBusy):
		return "", nil
	case unsupported(err):
		return noFlock(err), nil
	}
	return "", err
}

func noFlock(err error) string {
	return fmt.Sprintf("has no flock (%v), so two pulls would write over each other", cause(err))
}

// symlinks tells whether models can be links to blobs.
func (p *probe) symlinks() (lacks string, err error) {
	err = os.Symlink("target", p.other())
	switch {
	case err == nil:
		return "", os.Remove(p.other())
	// FAT answers EPERM, which a folder that may not be written does not.
	case unsupported(err), errors.Is(err, unix.EPERM):
		return fmt.Sprintf("has no symlinks (%v), which are what a model's folder consists of", cause(err)), nil
	}
	return "", err
}

// renames tells whether a file takes another's place at once.
func (p *probe) renames() (lacks string, err error) {
	other, err := os.OpenFile(p.other(), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, other.Close()) }()
	err = os.Rename(p.other(), p.path)
	switch {
	case err == nil:
	case unsupported(err), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EEXIST):
		return fmt.Sprintf("does not rename one file over another (%v), by which a store changes at once or not at all", cause(err)), nil
	default:
		return "", err
	}
	if same, err := sameFile(other, p.path); err != nil || same {
		return "", err
	}
	return "renames one file over another without replacing it, by which a store changes at once or not at all", nil
}

// modes tells whether pods may read what is written. It comes before the file's
// name is given to another.
func (p *probe) modes() (string, error) {
	if err := p.file.Chmod(blobMode); err != nil && !unsupported(err) && !errors.Is(err, os.ErrPermission) {
		return "", err
	}
	info, err := p.file.Stat()
	if err != nil || shown(info, blobMode) {
		return "", err
	}
	return onlyMode(info), nil
}

func onlyMode(info os.FileInfo) string {
	return fmt.Sprintf("leaves a file's mode at %s, with which not every pod may read it", info.Mode())
}

func (p *probe) reserves() (bool, error) {
	err := fallocate(p.file, 1)
	switch {
	case err == nil, errors.Is(asStoreError(err), ErrNoSpace): // a full disk that knows it
		return true, nil
	case unsupported(err):
		return false, nil
	}
	return false, err
}

func (p *probe) foldsCase() (bool, error) {
	mine, err := os.Lstat(p.path)
	if err != nil {
		return false, err
	}
	shouted, err := os.Lstat(filepath.Join(filepath.Dir(p.path), strings.ToUpper(filepath.Base(p.path))))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, shouted), err
}

// maxFile asks where a file may end, without writing there: the kernel lets
// nobody seek beyond it.
func (p *probe) maxFile() int64 {
	may := func(size int64) bool {
		_, err := p.file.Seek(size, io.SeekStart)
		return err == nil
	}
	least, most := int64(0), int64(math.MaxInt64)
	if may(most) {
		return most
	}
	for most-least > 1 {
		if middle := least + (most-least)/2; may(middle) {
			least = middle
		} else {
			most = middle
		}
	}
	return least
}

// unsupported says that a file system does not know an operation.
func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOTTY)
}

// cause is the operating system's own word for an error, without the names of
// probing.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// fallocate reserves blocks for size bytes. It leaves the file's length where the
// file system can; NFS (ALLOCATE, RFC 7862) makes the file as long as that.
func fallocate(f *os.File, size int64) error {
	mode := uint32(unix.FALLOC_FL_KEEP_SIZE)
	for {
		err := unix.Fallocate(int(f.Fd()), mode, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case unsupported(err) && mode != 0:
			mode = 0
		default:
			return err
		}
	}
}
