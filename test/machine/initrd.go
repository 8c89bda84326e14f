//go:build linux

package machine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// guestPackage is the program that machines have as their first process.
const guestPackage = "github.com/stoker-project/stoker/test/machine/guest"

// buildInitrd builds the machines' first process and writes the initial file system that holds it. It returns its path.
func buildInitrd(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "guest")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", program, guestPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the machines' first process: %w\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "initrd")
	return path, os.WriteFile(path, archive("init", content), 0o600)
}

// archive returns a cpio archive of one executable, in the kernel's format "newc"
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func archive(name string, content []byte) []byte {
	const executable = 0o100755
	var b bytes.Buffer
	entry := func(name string, mode int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(&b)
		b.Write(content)
		pad(&b)
	}
	entry(name, executable, content)
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// pad fills up to a multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
