//go:build e2e && linux

package machine_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

// All tests share this network.
var network *machine.Network

func TestMain(m *testing.M) {
	os.Exit(machine.RunTests(m, func(_ context.Context, n *machine.Network, _ string) error {
		network = n
		return nil
	}))
}

// boot boots a machine that ends with the test.
func boot(t *testing.T, config machine.Config) *machine.Machine {
	t.Helper()
	begin := time.Now()
	m := network.BootFor(t, config)
	t.Logf("machine %s booted in %s", config.Name, time.Since(begin).Round(time.Millisecond))
	return m
}

// output runs a script that must end with code 0 within two minutes.
func output(t *testing.T, m *machine.Machine, script string) string {
	t.Helper()
	return m.OutputFor(t, script)
}
