//go:build e2e && linux

package node_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stoker-project/stoker/test/node/sandbox"
)

// box is what the sandbox gives to all tests.
var box sandbox.Box

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests on a real node need root")
		os.Exit(1)
	}
	var inside bool
	var code int
	if box, inside, code = sandbox.Enter(); !inside {
		os.Exit(code)
	}
	os.Exit(m.Run())
}
