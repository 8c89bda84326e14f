//go:build e2e && linux

package kernels_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/daemon"
	"github.com/stoker-project/stoker/test/machine"
	"github.com/stoker-project/stoker/test/node/sandbox"
)

// All tests share these.
var (
	box     sandbox.Box
	network *machine.Network
	// programs is a directory with the program, which machines have at programDir.
	programs string
)

// programDir is where machines find the program.
const programDir = "/opt/stoker"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests on kernels of their own need root")
		os.Exit(1)
	}
	var inside bool
	var code int
	if box, inside, code = sandbox.Enter(); !inside {
		os.Exit(code)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	image, err := machine.FindImage()
	if err != nil {
		return 1, err
	}
	machines := filepath.Join(box.Dir, "machines")
	programs = filepath.Join(box.Dir, "programs")
	for _, dir := range []string{machines, programs} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 1, err
		}
	}
	if _, err := daemon.Build(ctx, programs); err != nil {
		return 1, err
	}
	if network, err = machine.NewNetwork(ctx, image, machines); err != nil {
		return 1, err
	}
	code := m.Run()
	return code, network.Close()
}

// boot boots a machine that has the program and ends with the test.
func boot(t *testing.T, config machine.Config) *machine.Machine {
	t.Helper()
	config.Shares = append(config.Shares, machine.Share{Host: programs, Guest: programDir})
	m, err := network.Boot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			console := m.Console()
			t.Logf("console of %s:\n%s", config.Name, console[max(0, len(console)-2000):])
		}
	})
	return m
}

// output runs a script that must succeed within two minutes, and returns its standard output.
func output(t *testing.T, m *machine.Machine, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := m.Output(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
