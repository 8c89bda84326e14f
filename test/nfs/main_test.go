//go:build e2e && linux

package nfs_test

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

// What all tests share.
var (
	box     sandbox.Box
	network *machine.Network
	// shared is a directory that every machine has at programDir.
	shared string
)

// programDir is where machines find the program.
const programDir = "/opt/stoker"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests on NFS need root")
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
	shared = filepath.Join(box.Dir, "shared")
	temp := filepath.Join(box.Dir, "tmp") // goes with the sandbox, however this ends
	for _, dir := range []string{machines, shared, temp} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 1, err
		}
	}
	if err := os.Setenv("TMPDIR", temp); err != nil {
		return 1, err
	}
	if _, err := daemon.Build(ctx, shared); err != nil {
		return 1, err
	}
	if network, err = machine.NewNetwork(ctx, image, machines); err != nil {
		return 1, err
	}
	code := m.Run()
	return code, network.Close()
}
