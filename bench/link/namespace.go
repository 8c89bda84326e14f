//go:build linux

package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name.
type Namespace struct{ file *os.File }

const threadNamespace = "/proc/thread-self/ns/net"

func newNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (it takes root): %w", err)
		}
		var err error
		n.file, err = os.Open(threadNamespace)
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Do runs f on a thread in the namespace: sockets that it opens and processes
// that it starts are there. What f starts in other goroutines is not.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Start is cmd.Start in the namespace.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// onThread runs f on this goroutine's thread, and brings the thread back to the
// namespace where it was. The thread stays this goroutine's until then: the
// parent-death signal of a process comes when the thread that started it ends.
func onThread(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(threadNamespace)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find the thread's network namespace: %w", err)
	}
	defer home.Close()
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// Left locked, the thread ends with the goroutine.
		return errors.Join(err, fmt.Errorf("leave a network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// ip runs iproute2's ip in the namespace.
func (n *Namespace) ip(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	var out []byte
	err := n.Do(func() error {
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

// path names the namespace to other processes.
func (n *Namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

func (n *Namespace) close() error { return n.file.Close() }

// Possible says why there can be no link here, or nil.
func Possible() error {
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("ip is not here; to get it: apt-get install iproute2")
	}
	n, err := newNamespace()
	if err != nil {
		return err
	}
	return n.close()
}
