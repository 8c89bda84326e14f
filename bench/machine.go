//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes where this ran, without names.
func (b *bench) machine() string {
	kernel := "unknown"
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		kernel, _, _ = strings.Cut(unix.ByteSliceToString(uts.Release[:]), "-")
	}
	memory, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	return fmt.Sprintf("%s, %d cores, %.0f GiB of memory, Linux %s, %s, files on %s",
		field("/proc/cpuinfo", "model name"), runtime.NumCPU(), float64(memory)/(1<<20), kernel, runtime.Version(), fileSystem(b.work))
}

// field is the first value of that name in a file of lines "name: value".
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range bytes.Lines(text) {
		if key, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// fileSystem is the kind of file system that holds a directory.
func fileSystem(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return "an unknown file system"
	}
	name, ok := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}[s.Type]
	if !ok {
		return fmt.Sprintf("file system %#x", s.Type)
	}
	return name
}

const workPrefix = "stoker-bench-"

// openWork makes the directory that holds everything, and removes those of runs
// that were killed: the lock on a directory goes with the process.
func (b *bench) openWork() error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(b.dir, workPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if lock(dir) == nil {
			b.say("removing %s, left by a run that was killed", dir)
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	if b.work, err = os.MkdirTemp(b.dir, workPrefix); err != nil {
		return err
	}
	return lock(b.work)
}

// lock holds a directory until this process ends.
func lock(dir string) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w (%w)", dir, err, unix.Close(fd))
	}
	return nil
}

// room says whether the work directory can take so many bytes more.
func (b *bench) room(_ context.Context, need int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(b.work, &s); err != nil {
		return err
	}
	if free := int64(s.Bavail) * s.Bsize; free < need {
		return skipError(fmt.Sprintf("it takes %d MiB of disk and %d are free; use -dir", need>>20, free>>20))
	}
	return nil
}
