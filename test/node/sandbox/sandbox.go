//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	// stageEnv says how far inside a process is: not set, outside; initStage, the first process of the namespaces;
	// insideStage, the program itself.
	stageEnv    = "STOKER_TEST_SANDBOX"
	initStage   = "init"
	insideStage = "inside"
	// dirEnv is the sandbox's directory.
	dirEnv = "STOKER_TEST_SANDBOX_DIR"
)

// Box is what a program inside has.
type Box struct {
	// Dir is a directory on this machine's disk; it is removed at the end.
	Dir string
	// CGroup is a cgroup that exists in every hierarchy, as a path from their roots; it is removed at the end.
	CGroup string
}

// NewCGroup makes a cgroup below the box's and returns its path.
func (b Box) NewCGroup(name string) (string, error) {
	path := filepath.Join(b.CGroup, name)
	return path, makeCGroups(path)
}

// Enter runs this program again in a sandbox, with the same arguments, and returns its exit code and inside false. In
// there, it returns inside true and the box. Interrupts are passed on, and so is the end of the parent.
func Enter() (box Box, inside bool, code int) {
	switch os.Getenv(stageEnv) {
	case insideStage:
		dir := os.Getenv(dirEnv)
		return Box{Dir: dir, CGroup: cgroupOf(dir)}, true, 0
	case initStage:
		code, err := runInit(os.Getenv(dirEnv))
		if err != nil {
			fmt.Fprintln(os.Stderr, "set up the sandbox:", err)
		}
		return Box{}, false, code
	}
	code, err := runOutside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run in a sandbox:", err)
	}
	return Box{}, false, code
}

// runOutside makes the directory and the namespaces, waits and cleans up.
func runOutside() (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	removeAbandoned()
	dir, unlock, err := newDir()
	if err != nil {
		return 1, err
	}
	defer unlock()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // signals end it
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageEnv+"="+initStage, dirEnv+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	// The parent-death signal comes when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 1, errors.Join(err, remove(dir))
	}
	done := make(chan struct{})
	go pass(signals, cmd.Process, done)
	err = cmd.Wait()
	close(done)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		code, err = exit.ExitCode(), nil
	case err != nil:
		code = 1
	}
	// The first process has ended, and the kernel has killed the others, so nothing uses these any more.
	if err := remove(dir); err != nil {
		return max(code, 1), err
	}
	return code, err
}

// pass passes signals on to a process until done is closed. That this process's parent is gone counts as one: nobody is left
// to interrupt the tests when `go test` was killed.
func pass(signals <-chan os.Signal, to *os.Process, done <-chan struct{}) {
	parent := os.Getppid()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			_ = to.Signal(s) // it may have ended
		case <-ticker.C:
			if os.Getppid() != parent {
				_ = to.Signal(syscall.SIGTERM)
			}
		}
	}
}

// runInit is the first process of the namespaces: it sets them up, starts the program and collects what nobody waits
// for, as containers' shims are.
func runInit(dir string) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	if err := mountAll(dir); err != nil {
		return 1, err
	}
	if err := makeCGroups(cgroupOf(dir)); err != nil {
		return 1, err
	}
	// This process's thread is never given back: see Pdeathsig in runOutside.
	runtime.LockOSThread()
	executable, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 1, err
	}
	if err := os.Setenv(stageEnv, insideStage); err != nil {
		return 1, err
	}
	program, err := os.StartProcess(executable, os.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = program.Signal(s) // it may have ended
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for the program: %w", err)
		case pid != program.Pid:
		case status.Exited():
			return status.ExitStatus(), nil
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		}
	}
}

// cgroupOf names the cgroup of the sandbox with this directory.
func cgroupOf(dir string) string { return "/" + filepath.Base(dir) }
