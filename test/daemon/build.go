package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// binaryEnv names a binary that was built before, for where there is no Go.
const binaryEnv = "STOKER_TEST_BINARY"

// Build builds the real binary in a directory and returns its path. It is called
// from a package's folder two below the repository's. Where STOKER_TEST_BINARY
// names a binary, Build returns that path and builds nothing.
func Build(ctx context.Context, dir string) (string, error) {
	if built := os.Getenv(binaryEnv); built != "" {
		return built, nil
	}
	binary := filepath.Join(dir, "stoker")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "disable_grpc_modules,grpcnotrace", "-trimpath",
		"-ldflags", "-s -w -extldflags=-Wl,-z,lazy", "-o", binary, "./cmd/stoker")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build stoker: %w\n%s", err, out)
	}
	return binary, nil
}
