package daemon

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// Build makes the real binary in a directory and returns its path. It is called
// from a package's folder two below the repository's.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "stoker")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "disable_grpc_modules,grpcnotrace", "-trimpath",
		"-ldflags", "-s -w -extldflags=-Wl,-z,lazy", "-o", binary, "./cmd/stoker")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build stoker: %w\n%s", err, out)
	}
	return binary, nil
}
