package gpu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childRole is the environment variable that makes the test binary play a child
// of childBackend.
const childRole = "GPU_TEST_CHILD"

// rootVariable is where a child finds the machine's /proc and /sys.
const rootVariable = "GPU_TEST_ROOT"

// nvmlAt is NVML with the machine's files under root; "" for the real ones.
func nvmlAt(root string) backend {
	b := newNVML()
	if at, ok := b.(interface{ setRoot(string) }); ok && root != "" {
		at.setRoot(root)
	}
	return b
}

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(playChild(role))
	}
	goleak.VerifyTestMain(m)
}

func playChild(role string) int {
	switch role {
	case "answer":
		if err := answerParent(context.Background(), os.Stdout, nvmlAt(os.Getenv(rootVariable))); err != nil {
			return 1
		}
	case "hang":
		fmt.Print(`{"devices":[]}`)
		time.Sleep(time.Hour) // no select {}: without cgo the runtime would call that a deadlock
	case "crash":
		fmt.Print(`{"devices":[]}`)
		fmt.Fprintln(os.Stderr, "fatal error: unexpected signal during runtime execution\n\ngoroutine 1")
		return 2
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "refuse":
		fmt.Fprintln(os.Stderr, "stoker: no such command")
		return 2
	case "mumble":
		fmt.Print("no JSON")
	case "flood":
		for range 5 {
			fmt.Print(strings.Repeat(" ", 1<<20))
		}
	default: // what it is to say
		fmt.Print(role)
	}
	return 0
}

// childCommand starts the test binary in a role, with a further environment.
func childCommand(t *testing.T, role string, env ...string) Command {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, self)
		// The race detector would make it sleep before it ends.
		cmd.Env = append(append(os.Environ(), childRole+"="+role, "GORACE=atexit_sleep_ms=0"), env...)
		return cmd
	}
}
