//go:build linux

package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/node/sandbox"
)

const (
	// prepareTimeout bounds everything that a suite does before its first test.
	prepareTimeout = 10 * time.Minute
	// outputTimeout bounds a script of Output.
	outputTimeout = 2 * time.Minute
)

// RunTests runs the tests of a package in a sandbox that has a network for machines, and returns the exit code for
// TestMain. The sandbox has a directory that goes with it, however the tests end: TMPDIR, and files, which prepare fills
// before the first test (nil: it stays empty).
func RunTests(m *testing.M, prepare func(ctx context.Context, network *Network, files string) error) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "tests that boot machines need root")
		return 1
	}
	box, inside, code := sandbox.Enter()
	if !inside {
		return code
	}
	network, err := prepareSuite(box.Dir, prepare)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests:", err)
		return 1
	}
	code = m.Run()
	if err := network.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

func prepareSuite(dir string, prepare func(context.Context, *Network, string) error) (*Network, error) {
	ctx, cancel := context.WithTimeout(context.Background(), prepareTimeout)
	defer cancel()
	image, err := FindImage()
	if err != nil {
		return nil, err
	}
	machines, files, temp := filepath.Join(dir, "machines"), filepath.Join(dir, "files"), filepath.Join(dir, "tmp")
	for _, d := range []string{machines, files, temp} {
		if err := os.Mkdir(d, 0o755); err != nil { //nolint:gosec // nothing secret
			return nil, err
		}
	}
	if err := os.Setenv("TMPDIR", temp); err != nil {
		return nil, err
	}
	network, err := NewNetwork(ctx, image, machines)
	if err == nil && prepare != nil {
		err = prepare(ctx, network, files)
	}
	return network, err
}

// BootFor boots a machine that ends with a test, and shows the end of its console if that has failed.
func (n *Network) BootFor(t *testing.T, config Config) *Machine {
	t.Helper()
	m, err := n.Boot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			console := m.Console()
			t.Logf("console of %s:\n%s", config.Name, console[max(0, len(console)-consoleTail/2):])
		}
	})
	return m
}

// OutputFor is Output for a test, which fails if the script does or takes longer than two minutes.
func (m *Machine) OutputFor(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), outputTimeout)
	defer cancel()
	out, err := m.Output(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
