//go:build linux

package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// programEnv makes this executable the program in the sandbox, and says how it ends.
const programEnv = "STOKER_TEST_SANDBOX_PROGRAM"

func TestMain(m *testing.M) {
	how := os.Getenv(programEnv)
	if how == "" {
		os.Exit(m.Run())
	}
	box, inside, code := Enter()
	if inside {
		code = program(box, how)
	}
	os.Exit(code)
}

// program leaves behind what a node would: a mount, a cgroup with a process in it, files. It says so, and ends.
func program(box Box, how string) int {
	if err := litter(box); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(box.Dir)
	if how == "stays" {
		_ = unix.Pause() // a signal ends it
	}
	return 3
}

func litter(box Box) error {
	mount := filepath.Join(box.Dir, "mount")
	if err := os.Mkdir(mount, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, ""); err != nil {
		return err
	}
	// In a session of its own, as a container's shim.
	sleeper := exec.Command("sleep", "1000")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := sleeper.Start(); err != nil {
		return err
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	inner := filepath.Join(roots[0], box.CGroup, "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(sleeper.Process.Pid)), 0o600)
}

// start runs the program in a sandbox below dir, and returns once it has left its litter, with the sandbox's directory.
func start(t *testing.T, dir, how string) (*exec.Cmd, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	return startBy(t, dir, how, "/proc/self/exe")
}

// startBy runs the program by a command.
func startBy(t *testing.T, dir, how string, command ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env = append(os.Environ(), programEnv+"="+how, "TMPDIR="+dir)
	cmd.Stderr = os.Stderr
	// What is left running would hold the pipe open.
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(errors.Join(err, cmd.Wait()))
	}
	return cmd, strings.TrimSpace(line)
}

// left lists what there still is of a sandbox.
func left(t *testing.T, box string) []string {
	t.Helper()
	roots, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range append(roots, box) {
		if path != box {
			path = filepath.Join(path, cgroupOf(box))
		}
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), box) {
		found = append(found, "mounts")
	}
	return found
}

func TestNothingIsLeft(t *testing.T) {
	for name, test := range map[string]struct {
		how    string
		signal syscall.Signal
		code   int
	}{
		"when the program ends":         {how: "ends", code: 3},
		"when it is interrupted":        {how: "stays", signal: syscall.SIGINT, code: 130},
		"when it is asked to terminate": {how: "stays", signal: syscall.SIGTERM, code: 143},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			cmd, box := start(t, t.TempDir(), test.how)
			if test.signal != 0 {
				if err := cmd.Process.Signal(test.signal); err != nil {
					t.Fatal(err)
				}
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != test.code {
				t.Errorf("it ended with %v, want status %d", err, test.code)
			}
			if found := left(t, box); len(found) > 0 {
				t.Errorf("left: %q", found)
			}
		})
	}
}

func TestTheNextCleansUpAfterAKill(t *testing.T) {
	dir := t.TempDir()
	cmd, box := start(t, dir, "stays")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if len(left(t, box)) == 0 {
		t.Fatal("nothing is left that could be cleaned up")
	}
	// As old as what was certainly abandoned.
	then := time.Now().Add(-2 * abandonedAge)
	if err := os.Chtimes(box, then, then); err != nil {
		t.Fatal(err)
	}
	next, _ := start(t, dir, "ends")
	_ = next.Wait() // its status is another test's
	if found := left(t, box); len(found) > 0 {
		t.Errorf("left: %q", found)
	}
}

func TestNothingIsLeftWhenTheParentIsKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd, box := startBy(t, t.TempDir(), "stays", "sh", "-c", `"$0" & wait`, self)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.After(30 * time.Second)
	for found := left(t, box); len(found) > 0; found = left(t, box) {
		select {
		case <-deadline:
			t.Fatalf("left: %q", found)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
