//go:build linux

package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startKernel starts a kernel and waits for its end in a goroutine. The parent-death signal comes when the thread that
// forked ends, so the goroutine keeps it.
func startKernel(cmd *exec.Cmd) (*kernel, error) {
	k := &kernel{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		k.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the state has how it ended
		k.state = cmd.ProcessState
		close(k.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the kernel: %w", err)
	}
	return k, nil
}

// Kill ends the machine as a power cut does: no process in it is asked, and nothing is written any more. A machine that
// has ended stays so. It returns when the kernel is gone.
func (m *Machine) Kill() error {
	k := m.running()
	if k == nil {
		return nil
	}
	// A stopped process dies of this signal too.
	if err := k.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill machine %s: %w", m.config.Name, err)
	}
	select {
	case <-k.exited:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("kill machine %s: the kernel still runs after %s", m.config.Name, killTimeout)
	}
}

// Exited returns a channel that is closed when the kernel that was booted last has ended.
func (m *Machine) Exited() <-chan struct{} {
	k := m.running()
	if k == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return k.exited
}

func (m *Machine) running() *kernel {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kernel
}

// Pause stops the machine's kernel, as a hypervisor pauses a machine. Its clock goes on.
func (m *Machine) Pause() error { return m.signalAll(syscall.SIGSTOP) }

// Resume lets a paused machine go on.
func (m *Machine) Resume() error { return m.signalAll(syscall.SIGCONT) }

// signalAll signals every process of the kernel's namespace but those that the kernel traces: they stand for the
// machine's processes and do nothing without it, and it takes a signal to them for the machine's.
func (m *Machine) signalAll(s syscall.Signal) error {
	k := m.running()
	if k == nil {
		return fmt.Errorf("signal machine %s: %w", m.config.Name, os.ErrProcessDone)
	}
	if err := k.process.Signal(s); err != nil {
		return fmt.Errorf("signal machine %s: %w", m.config.Name, err)
	}
	helpers, err := helpersOf(k.process.Pid)
	if err != nil {
		return fmt.Errorf("signal machine %s: %w", m.config.Name, err)
	}
	for _, pid := range helpers {
		_ = syscall.Kill(pid, s) // it may have ended
	}
	return nil
}

// helpersOf returns the other processes of a process's process namespace that nobody traces.
func helpersOf(pid int) ([]int, error) {
	namespace, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		other, err := strconv.Atoi(entry.Name())
		if err != nil || other == pid {
			continue
		}
		if link, err := os.Readlink(filepath.Join("/proc", entry.Name(), "ns/pid")); err != nil || link != namespace {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "status"))
		if err == nil && strings.Contains(string(status), "\nTracerPid:\t0\n") {
			pids = append(pids, other)
		}
	}
	return pids, nil
}
