//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/stoker-project/stoker/test/cluster"
)

// Halt stops the kubelet and containerd, kills whatever ran in containers, without a word to anybody, and unmounts
// everything: what a machine does that goes down. What is on the disk stays. Boot brings the node back.
func (n *Node) Halt(ctx context.Context) error {
	if err := errors.Join(n.kubelet.stop(), n.containerd.stop()); err != nil {
		return fmt.Errorf("halt node %s: %w", n.options.Name, err)
	}
	err := cluster.WaitFor(ctx, "the containers to be gone", func(context.Context) (bool, error) {
		pids, err := n.containerProcesses()
		if err != nil {
			return false, err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		return len(pids) == 0, nil
	})
	if err != nil {
		return err
	}
	return n.keeper.stop() // the mounts go with the last process that saw them
}

// containerProcesses are the processes in the cgroups of the node's pods, and the shims that watch over them, which live
// in the node's mount namespace.
func (n *Node) containerProcesses() ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	namespace, err := os.Readlink(n.namespace())
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range paths {
		command, err := os.ReadFile(filepath.Join(path, "cmdline"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || len(command) == 0 {
			continue // gone, or about to be
		}
		if err != nil {
			return nil, err
		}
		cgroups, err := os.ReadFile(filepath.Join(path, "cgroup"))
		if err != nil {
			continue // gone
		}
		mounts, err := os.Readlink(filepath.Join(path, "ns", "mnt"))
		if err != nil {
			continue // gone
		}
		shim := filepath.Join(n.options.Containerd, "containerd-shim-runc-v2")
		isShim := mounts == namespace && strings.HasPrefix(string(command), shim+"\x00")
		if isShim || strings.Contains(string(cgroups), ":"+n.options.CGroup+"/") {
			pid, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
