package faults

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/test/ordeal"

	"go.uber.org/goleak"
)

var (
	seedFlag  = flag.Uint64("seed", 31, "seed of the walks; 0 takes a new one and prints it")
	stepsFlag = flag.Int("steps", 0, "steps of each walk; 0 is what CI runs")
)

// stoker is the path of the program that TestMain built.
var stoker string

// insideEnv says that this process has a mount namespace of its own.
const insideEnv = "STOKER_TEST_FAULTS_INSIDE"

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() == 0 && os.Getenv(insideEnv) == "" {
		os.Exit(runInside())
	}
	os.Exit(run(m))
}

// runInside runs this executable again in a mount namespace of its own: however
// the tests end, kill -9 included, the kernel then takes their mounts and loop
// devices away.
func runInside() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err := ordeal.RunTied(cmd, func() {
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

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	stoker = filepath.Join(dir, "stoker")
	build := exec.Command("go", "build", "-tags", "disable_grpc_modules,grpcnotrace", "-ldflags", "-extldflags=-Wl,-z,lazy", "-o", stoker, "./cmd/stoker")
	build.Dir, build.Stderr = "../..", os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build stoker:", err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
