//go:build e2e && linux

package machine_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
	"github.com/stoker-project/stoker/test/node/sandbox"
)

// All tests share these machines: a server and two clients.
var (
	box     sandbox.Box
	network *machine.Network
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of machines need root")
		os.Exit(1)
	}
	var inside bool
	var code int
	if box, inside, code = sandbox.Enter(); !inside {
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	image, err := machine.FindImage()
	if err == nil {
		dir := filepath.Join(box.Dir, "machines")
		if err = os.Mkdir(dir, 0o755); err == nil {
			network, err = machine.NewNetwork(ctx, image, dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := network.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// boot boots a machine that ends with the test.
func boot(t *testing.T, config machine.Config) *machine.Machine {
	t.Helper()
	begin := time.Now()
	m, err := network.Boot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("machine %s booted in %s", config.Name, time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			console := m.Console()
			t.Logf("console of %s:\n%s", config.Name, console[max(0, len(console)-1500):])
		}
	})
	return m
}

// output runs a script that must end with code 0 within a minute.
func output(t *testing.T, m *machine.Machine, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := m.Output(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
