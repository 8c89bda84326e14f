//go:build e2e && linux

package nfs_test

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
	// shared is a directory that every machine has at programDir.
	shared string
)

// programDir is where machines find the program.
const programDir = "/opt/stoker"

func TestMain(m *testing.M) {
	os.Exit(machine.RunTests(m, func(ctx context.Context, n *machine.Network, files string) error {
		network, shared = n, files
		_, err := daemon.Build(ctx, files)
		return err
	}))
}
