package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Builder runs buildah with a storage of its own, so that nothing of this machine's images is touched.
type Builder struct {
	// Dir holds buildah's storage and what is made on the way; it is created. It may be shared: buildah locks it.
	Dir string
	// Log gets what buildah and its steps say. nil is silence; an error carries the end of it all the same.
	Log io.Writer
}

// Base images in a Builder's storage, for the Dockerfile's arguments BUILDER and BASE.
const (
	LocalBuilder = "localhost/stoker-builder"
	LocalBase    = "localhost/stoker-base"
)

// buildah runs one command of buildah's. Chroot isolation asks for nothing that a container would lack.
func (b Builder) buildah(ctx context.Context, args ...string) error {
	storage := []string{"--root", filepath.Join(b.Dir, "storage"), "--runroot", filepath.Join(b.Dir, "run"), "--storage-driver", "overlay"}
	return b.run(ctx, "buildah", append(storage, args...)...)
}

// run runs a program to its end, which comes early, and with its children, when ctx ends.
func (b Builder) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var output bytes.Buffer
	cmd.Stdout = &output
	if b.Log != nil {
		cmd.Stdout = io.MultiWriter(&output, b.Log)
	}
	cmd.Stderr = cmd.Stdout
	cmd.Env = append(os.Environ(), "TMPDIR="+b.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w\n%s", cmd, err, lastLines(output.Bytes()))
	}
	return nil
}

// lastLines are enough to hold an error and what led to it.
func lastLines(content []byte) []byte {
	const count = 30
	lines := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-count):], []byte("\n"))
}
