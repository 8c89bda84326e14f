package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a file system whose power can be cut: an ext4 on a loop device over a
// file in memory, so that nothing of it can be left behind.
type disk struct {
	image *os.File
	dir   string
	// bootID is shown to the agent in place of the kernel's, because a machine
	// whose power was cut boots again.
	bootID string
	frozen atomic.Bool
}

// newDisk makes one of size bytes and mounts it until the test ends.
func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{image: os.NewFile(uintptr(fd), "disk"), dir: filepath.Join(t.TempDir(), "store"), bootID: filepath.Join(t.TempDir(), "boot_id")}
	t.Cleanup(func() {
		if err := d.image.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.image.Truncate(size); err != nil {
		t.Fatal(err)
	}
	mkfs := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", "-m", "0", "/proc/self/fd/3")
	mkfs.ExtraFiles = []*os.File{d.image}
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.newBoot(); err != nil {
		t.Fatal(err)
	}
	const kernels = "/proc/sys/kernel/random/boot_id"
	if err := unix.Mount(d.bootID, kernels, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(kernels, 0); err != nil {
			t.Error(err)
		}
	})
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.thaw(), d.unmount()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// newBoot changes what the agent takes for the machine's boot.
func (d *disk) newBoot() error {
	id := fmt.Sprintf("%08x-0000-4000-8000-%012x\n", uint32(time.Now().UnixNano()), time.Now().UnixNano()&0xffffffffffff)
	return os.WriteFile(d.bootID, []byte(id), 0o444)
}

// mount mounts what the image holds, over whatever is there; the journal is
// replayed if it has to be.
func (d *disk) mount() error {
	device, err := d.attach()
	if err != nil {
		return fmt.Errorf("make a loop device: %w", err)
	}
	defer device.Close() // the mount keeps it; it goes with the mount
	if err := unix.Mount(device.Name(), d.dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device.Name(), err)
	}
	return nil
}

// attach makes a loop device of the image that ends with its last user.
func (d *disk) attach() (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for try := 1; ; try++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(d.image.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		err = errors.Join(err, device.Close())
		if !errors.Is(err, unix.EBUSY) || try == 20 { // somebody else took it
			return nil, err
		}
	}
}

// unmount waits while somebody looks at the file system for a moment.
func (d *disk) unmount() error {
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Unmount(d.dir, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			if err != nil {
				return fmt.Errorf("unmount %s: %w", d.dir, err)
			}
			return nil
		}
		<-tick.C
	}
}

// die stops the file system at once: nothing that is not on the disk gets there
// any more, the journal included, and whoever asks gets EIO.
func (d *disk) die() error {
	const shutdown, withoutJournal = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	return d.ioctl(func(fd int) error { return unix.IoctlSetPointerInt(fd, shutdown, withoutJournal) })
}

// hide puts an empty file system in the place of this one, as after unmounting.
func (d *disk) hide() error { return unix.Mount("tmpfs", d.dir, "tmpfs", 0, "") }

// show ends hide, and tells what somebody wrote meanwhile.
func (d *disk) show() (written []string, err error) {
	entries, err := os.ReadDir(d.dir)
	for _, e := range entries {
		written = append(written, e.Name())
	}
	return written, errors.Join(err, d.unmount())
}

const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW

// freeze makes every write hang, in the kernel.
func (d *disk) freeze() error {
	err := d.ioctl(func(fd int) error { return unix.IoctlSetInt(fd, fiFreeze, 0) })
	d.frozen.Store(err == nil)
	return err
}

// thaw ends a freeze; it does nothing if there is none.
func (d *disk) thaw() error {
	if !d.frozen.Swap(false) {
		return nil
	}
	return d.ioctl(func(fd int) error { return unix.IoctlSetInt(fd, fiThaw, 0) })
}

// readOnly changes whether the file system can be written. EBUSY: somebody has
// a file open for writing.
func (d *disk) readOnly(yes bool) error {
	flags := uintptr(unix.MS_REMOUNT)
	if yes {
		flags |= unix.MS_RDONLY
	}
	return unix.Mount("", d.dir, "", flags, "")
}

// sync brings everything to the disk.
func (d *disk) sync() error { return d.ioctl(unix.Syncfs) }

func (d *disk) ioctl(do func(fd int) error) error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(int(dir.Fd()))
}

// fill takes so much of the free space that at most leave bytes are left.
func (d *disk) fill(leave int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		return err
	}
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	want := int64(fs.Bavail)*fs.Bsize - leave
	for want > 0 {
		err := unix.Fallocate(int(f.Fd()), 0, 0, want)
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		want -= max(fs.Bsize, want/64) // its own metadata need some
	}
	return nil
}

// free gives back what fill took.
func (d *disk) free() error {
	err := os.Remove(d.filler())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// filler is beside the store's own files.
func (d *disk) filler() string { return filepath.Join(d.dir, "lost+found", "filler") }
