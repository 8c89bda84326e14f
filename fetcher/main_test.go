package fetcher_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that no test leaves a goroutine, and is the child that
// TestKill kills.
func TestMain(m *testing.M) {
	if os.Getenv("STOKER_TEST_CHILD") != "" {
		panic(1)
	}
	goleak.VerifyTestMain(m)
}
