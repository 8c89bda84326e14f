//go:build linux

package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Environment variables that make sets to what build.sh made.
const (
	kernelEnv = "STOKER_E2E_UML_KERNEL"
	rootEnv   = "STOKER_E2E_UML_ROOT"
)

// ErrNoImage is returned by FindImage when the environment names no kernel or no root directory.
var ErrNoImage = errors.New("set " + kernelEnv + " and " + rootEnv + ", as make e2e-machine does")

// Image is what machines boot.
type Image struct {
	// Kernel is the path of a user-mode Linux executable.
	Kernel string
	// Root is the directory that every machine has as its root.
	Root string
}

// FindImage returns the image that the environment names. The kernel must have the checksum that was recorded beside it
// when it was built.
func FindImage() (Image, error) {
	image := Image{Kernel: os.Getenv(kernelEnv), Root: os.Getenv(rootEnv)}
	if image.Kernel == "" || image.Root == "" {
		return Image{}, ErrNoImage
	}
	recorded, err := os.ReadFile(image.Kernel + ".sha256")
	if err != nil {
		return Image{}, fmt.Errorf("read the checksum of the machines' kernel: %w", err)
	}
	kernel, err := os.ReadFile(image.Kernel)
	if err != nil {
		return Image{}, fmt.Errorf("read the machines' kernel: %w", err)
	}
	sum := sha256.Sum256(kernel)
	if got, want := hex.EncodeToString(sum[:]), strings.TrimSpace(string(recorded)); got != want {
		return Image{}, fmt.Errorf("the machines' kernel %s has checksum %s, not %s: remove %s and build it again",
			image.Kernel, got, want, filepath.Dir(image.Kernel))
	}
	if _, err := os.Stat(filepath.Join(image.Root, "usr/lib/modules")); err != nil {
		return Image{}, fmt.Errorf("find the machines' root directory: %w", err)
	}
	return image, nil
}
