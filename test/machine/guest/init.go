//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// runInit sets the machine up, starts the server of commands and collects every process that nobody waits for.
func runInit() error {
	parameters, err := setUp()
	if err != nil {
		return err
	}
	// Only now: the server's Go runtime must not see the old root.
	server := exec.Command("/proc/self/exe", serveArg) //nolint:noctx // it lives as long as the machine
	server.Args[0] = "guest"
	server.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		addressEnv + "=" + parameters["control"],
	}
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		return fmt.Errorf("start the server of commands: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		case pid == server.Process.Pid:
			return fmt.Errorf("the server of commands ended: exit code %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}

func setUp() (map[string]string, error) {
	if err := mountAll(
		mount{"proc", "/proc", "proc", 0, ""},
		mount{"sys", "/sys", "sysfs", 0, ""},
		mount{"dev", "/dev", "devtmpfs", 0, ""},
	); err != nil {
		return nil, err
	}
	parameters, err := readParameters()
	if err != nil {
		return nil, err
	}
	if err := enterRoot(parameters["root"]); err != nil {
		return nil, err
	}
	if err := mountAll(
		mount{"pts", "/dev/pts", "devpts", 0, ""},
		mount{"shm", "/dev/shm", "tmpfs", 0, ""},
		mount{"cgroup", "/sys/fs/cgroup", "cgroup2", 0, ""},
		mount{"run", "/run", "tmpfs", 0, "mode=755"},
		mount{"tmp", "/tmp", "tmpfs", 0, "mode=1777"},
	); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte(parameters["name"])); err != nil {
		return nil, fmt.Errorf("set the host name: %w", err)
	}
	if err := os.WriteFile("/etc/hostname", []byte(parameters["name"]+"\n"), 0o644); err != nil {
		return nil, err
	}
	return parameters, setUpNetwork(parameters)
}

// readParameters returns the parameters that the kernel's command line has for this program: stoker.NAME=VALUE.
func readParameters() (map[string]string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	parameters := map[string]string{}
	for _, word := range strings.Fields(string(line)) {
		if rest, ok := strings.CutPrefix(word, "stoker."); ok {
			name, value, _ := strings.Cut(rest, "=")
			parameters[name] = value
		}
	}
	for _, name := range []string{"name", "address", "control", "root"} {
		if parameters[name] == "" {
			return nil, fmt.Errorf("the kernel's command line lacks stoker.%s", name)
		}
	}
	return parameters, nil
}

// enterRoot makes a directory of the host the root, below a layer in memory that takes every change.
func enterRoot(dir string) error {
	if err := mountAll(
		mount{"host", "/host", "hostfs", unix.MS_RDONLY, dir},
		mount{"layer", "/layer", "tmpfs", 0, "mode=755"},
	); err != nil {
		return err
	}
	if err := loadModule("overlayfs/overlay.ko"); err != nil {
		return err
	}
	for _, path := range []string{"/layer/upper", "/layer/work"} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	}
	if err := mountAll(mount{"root", "/root", "overlay", 0, "lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work"}); err != nil {
		return err
	}
	for _, path := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(path, "/root"+path, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", path, err)
		}
	}
	if err := os.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return os.Chdir("/")
}

// loadModule loads one file system's module, which needs no other, before there is a root with modprobe.
func loadModule(name string) error {
	files, err := filepath.Glob(filepath.Join("/host/usr/lib/modules/*/kernel/fs", name))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("find the module %s: %d files match: %w", name, len(files), err)
	}
	file, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil {
		return fmt.Errorf("load the module %s: %w", name, err)
	}
	return nil
}

type mount struct {
	source, target, kind string
	flags                uintptr
	options              string
}

func mountAll(mounts ...mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	return nil
}

// setUpNetwork gives the two interfaces their addresses: vec0 is the network that tests cut and slow down, vec1 carries
// commands and is never touched.
func setUpNetwork(parameters map[string]string) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", parameters["address"] + "/24", "dev", "vec0"},
		{"link", "set", "vec0", "up"},
		{"address", "add", parameters["control"] + "/24", "dev", "vec1"},
		{"link", "set", "vec1", "up"},
	} {
		cmd := exec.Command("/usr/sbin/ip", args...) //nolint:noctx // booting has a deadline outside
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("set up the network: ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
