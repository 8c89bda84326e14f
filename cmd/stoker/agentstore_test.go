package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/agent"
)

const podsRead = "system_u:object_r:container_ro_file_t:s0"

// TestLabelError: only what another try cannot change is wrong usage.
func TestLabelError(t *testing.T) {
	for cause, want := range map[error]int{
		unix.EACCES: exitUsage, unix.EPERM: exitUsage, unix.EINVAL: exitUsage, unix.EIO: exitFailed, unix.ESTALE: exitFailed, unix.EROFS: exitFailed, unix.ENOSPC: exitFailed,
	} {
		err := labelError(fmt.Errorf("label x: %w", &fs.PathError{Op: "setxattr", Path: "x", Err: cause}))
		if got := exitCode(t.Context(), err); got != want || !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "--selinux-label: ") {
			t.Errorf("%v: exit code %d; want %d", err, got, want)
		}
	}
}

// TestLabelLater: what is made after the start gets the label at the next look.
func TestLabelLater(t *testing.T) {
	dir := t.TempDir()
	set := func(path string) {
		t.Helper()
		err := unix.Lsetxattr(path, "security.selinux", []byte("system_u:object_r:var_lib_t:s0\x00"), 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EACCES) {
			t.Skipf("this user cannot label files here: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(dir)
	var log bytes.Buffer
	_, s, err := openForAgent(t.Context(), dir, agent.VolumeNode, podsRead, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	later := filepath.Join(dir, "later")
	if err := os.Mkdir(later, 0o755); err != nil {
		t.Fatal(err)
	}
	set(later)
	for range 2 {
		if err := s.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "models"), later} {
		value := make([]byte, 256)
		n, err := unix.Lgetxattr(path, "security.selinux", value)
		if got := string(bytes.TrimRight(value[:max(0, n)], "\x00")); got != podsRead || err != nil {
			t.Errorf("%s is labelled %q: %v", path, got, err)
		}
	}
	if n := strings.Count(log.String(), "labelled the store for pods"); n != 2 {
		t.Errorf("it is logged %d times:\n%s", n, &log)
	}
	for _, mode := range []string{agent.VolumeShared, agent.VolumeReadOnly} {
		if _, ok := withLabel(nil, mode, podsRead, nil).(*labelledStore); ok {
			t.Errorf("agents label a volume of mode %s", mode)
		}
	}
}
