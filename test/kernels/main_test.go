//go:build e2e && linux

package kernels_test

import (
	"context"
	"os"
	"testing"

	"github.com/stoker-project/stoker/test/daemon"
	"github.com/stoker-project/stoker/test/machine"
)

// All tests share these.
var (
	network *machine.Network
	// programs is a directory with the program, which machines have at programDir.
	programs string
)

// programDir is where machines find the program.
const programDir = "/opt/stoker"

func TestMain(m *testing.M) {
	os.Exit(machine.RunTests(m, func(ctx context.Context, n *machine.Network, files string) error {
		network, programs = n, files
		_, err := daemon.Build(ctx, files)
		return err
	}))
}

// boot boots a machine that has the program and ends with the test.
func boot(t *testing.T, config machine.Config) *machine.Machine {
	t.Helper()
	config.Shares = append(config.Shares, machine.Share{Host: programs, Guest: programDir})
	return network.BootFor(t, config)
}

// output runs a script that must succeed within two minutes, and returns its standard output.
func output(t *testing.T, m *machine.Machine, script string) string {
	t.Helper()
	return m.OutputFor(t, script)
}
