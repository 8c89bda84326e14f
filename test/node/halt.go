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

// Halt stops the kubelet and containerd and kills whatever ran in containers, without a word to anybody: what a machine
// does that goes down. What is on the disk stays. StartContainerd and StartKubelet bring the node back.
func (n *Node) Halt(ctx context.Context) error {
	if err := errors.Join(n.kubelet.stop(), n.containerd.stop()); err != nil {
		return fmt.Errorf("halt node %s: %w", n.options.Name, err)
	}
	return cluster.WaitFor(ctx, "the containers to be gone", func(context.Context) (bool, error) {
		pids, err := n.containerProcesses()
		if err != nil {
			return false, err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		return len(pids) == 0, nil
	})
}

// containerProcesses are the processes in the cgroups of pods, and the shims that watch over them.
func (n *Node) containerProcesses() ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*")
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
		shim := filepath.Join(n.options.Containerd, "containerd-shim-runc-v2")
		if strings.Contains(string(cgroups), ":"+n.options.CGroup+"/") || strings.HasPrefix(string(command), shim+"\x00") {
			pid, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
