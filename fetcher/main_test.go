package fetcher_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that no test leaves a goroutine, and is the child that the
// kill tests kill.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(pullAsChild())
	}
	goleak.VerifyTestMain(m)
}
