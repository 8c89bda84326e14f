//go:build linux

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountAll gives the mount namespace what containerd and a kubelet write to at paths that cannot be configured: empty
// directories, and a /var/lib whose changes go into dir.
func mountAll(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, path := range []string{"/run", "/var/log"} {
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount an empty %s: %w", path, err)
		}
	}
	upper, work := filepath.Join(dir, "var-lib"), filepath.Join(dir, "var-lib-work")
	for _, path := range []string{upper, work, "/run/netns"} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=/var/lib,upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", "/var/lib", "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on /var/lib: %w", err)
	}
	return coverSysctls(filepath.Join(dir, "sysctls"))
}

// coverSysctls lays ordinary files over the settings of the whole machine that a kubelet insists on writing, with the
// values that it wants: it finds them right, and the machine's stay as they are. /proc/sys is read-only for containers.
func coverSysctls(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			continue // a kernel built without it
		}
		cover := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(cover, []byte(value+"\n"), 0o600); err != nil {
			return err
		}
		if err := unix.Mount(cover, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", target, err)
		}
	}
	return nil
}
