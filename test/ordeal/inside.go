package ordeal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// insideEnv says that this process has a mount namespace of its own.
const insideEnv = "STOKER_TEST_INSIDE"

// RunInside runs this executable again in a mount namespace of its own, where that
// is possible and has not been done: however the tests end, kill -9 included, the
// kernel then takes their mounts and loop devices away. If ran, the tests have run,
// and code is for os.Exit.
func RunInside() (code int, ran bool) {
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "" {
		return 0, false
	}
	return runInside(), true
}

func runInside() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // it ends with the tests
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err := RunTied(cmd, func() {
		go func() {
			for s := range signals {
				_ = cmd.Process.Signal(s) // it may have ended
			}
		}()
	})
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "run the tests in a mount namespace of their own:", err)
	return 1
}
