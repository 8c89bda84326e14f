//go:build linux

package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// startNamespace makes the node's mount namespace, in which it has what a machine has for itself: an empty /run, the
// kubelet's directory, and its disks. So several nodes have them at the same paths, and all of a node's mounts go when
// it is halted. A process that does nothing keeps the namespace.
func (n *Node) startNamespace(ctx context.Context) error {
	//nolint:noctx // It lives until it is stopped, longer than the context of whoever starts it.
	keeper := exec.Command("sleep", "infinity")
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	var err error
	if n.keeper, err = startProcess("the keeper of the mount namespace", n.path("keeper.log"), keeper); err != nil {
		return err
	}
	if err := n.run(ctx, "mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"); err != nil {
		return err
	}
	if err := n.run(ctx, "mkdir", "/run/netns"); err != nil {
		return err
	}
	mounts := map[string]string{kubeletDir: n.path("kubelet")}
	for path, dir := range n.options.Mounts {
		mounts[path] = dir
	}
	for path, dir := range mounts {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := n.run(ctx, "mount", "--bind", dir, path); err != nil {
			return err
		}
	}
	return nil
}

// namespace is the file by which the mount namespace is entered.
func (n *Node) namespace() string {
	return filepath.Join("/proc", strconv.Itoa(n.keeper.cmd.Process.Pid), "ns", "mnt")
}

// command is a command in the node's mount namespace.
func (n *Node) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--mount=" + n.namespace(), "--", path}, args...)...)
}

// run runs a command in the node's mount namespace to its end.
func (n *Node) run(ctx context.Context, path string, args ...string) error {
	cmd := n.command(ctx, path, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return nil
}

// MountInfo is what is mounted on the node, as in /proc/PID/mountinfo.
func (n *Node) MountInfo() ([]byte, error) {
	return os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.keeper.cmd.Process.Pid), "mountinfo"))
}
