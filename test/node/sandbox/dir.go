//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// dirPattern is what the directories of sandboxes are called.
	dirPattern = "stoker-node-*"
	// abandonedAge is how long a directory without a lock is left alone: it may have been made just now.
	abandonedAge = time.Minute
	// keptEnv is set by who wants to look at the directory afterwards.
	keptEnv = "STOKER_TEST_KEEP"
)

// newDir makes a directory that is locked as long as this process lives, or until unlock.
func newDir() (dir string, unlock func(), err error) {
	if dir, err = os.MkdirTemp("", dirPattern); err != nil {
		return "", nil, err
	}
	unlock, err = lock(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	// Containers run as other users and read what lies here.
	return dir, unlock, os.Chmod(dir, 0o755)
}

func lock(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// remove takes away what outlives the namespaces.
func remove(dir string) error {
	err := removeCGroups(cgroupOf(dir))
	if os.Getenv(keptEnv) != "" {
		fmt.Fprintln(os.Stderr, "kept:", dir)
		return errors.Join(err, os.WriteFile(filepath.Join(dir, "keep"), nil, 0o600))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// removeAbandoned removes what is left of sandboxes whose outer process was killed.
func removeAbandoned() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPattern))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < abandonedAge {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "keep")); err == nil {
			continue
		}
		unlock, err := lock(dir)
		if err != nil {
			continue
		}
		if err := errors.Join(removeCGroups(cgroupOf(dir)), os.RemoveAll(dir)); err != nil {
			fmt.Fprintln(os.Stderr, "remove an abandoned sandbox:", err)
		}
		unlock()
	}
}
