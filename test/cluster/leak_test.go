package cluster_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/test/cluster"
)

// holdCluster makes the test's own executable a program that starts a cluster, prints its directory and never ends.
const holdCluster = "STOKER_TEST_HOLD_CLUSTER"

func TestMain(m *testing.M) {
	if os.Getenv(holdCluster) != "" {
		c, err := cluster.Start(context.Background(), cluster.Options{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(c.Dir())
		select {}
	}
	os.Exit(m.Run())
}

func TestStopLeavesNothing(t *testing.T) {
	needProc(t)
	before := goleak.IgnoreCurrent()
	c, err := cluster.Start(t.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	// A request, so that there is a connection that could stay.
	if _, err := c.Client().Discovery().ServerVersion(); err != nil {
		t.Error(err)
	}
	if got := processesOf(t, c.Dir()); len(got) != 4 {
		t.Errorf("a running cluster has the processes %q, want four", got)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if got := processesOf(t, c.Dir()); len(got) != 0 {
		t.Errorf("stopping leaves the processes %q", got)
	}
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Errorf("stopping leaves the directory %s: %v", c.Dir(), err)
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	if err := c.Stop(); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

func TestKeepLeavesTheLogs(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	c, err := cluster.Start(t.Context(), cluster.Options{Log: os.Stderr, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if filepath.Dir(c.Dir()) != temp {
		t.Errorf("the directory %s is not in the temporary directory %s", c.Dir(), temp)
	}
	for _, component := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if _, err := os.Stat(filepath.Join(c.Dir(), "logs", component+".log")); err != nil {
			t.Error(err)
		}
	}
}

// However the parent ends, no component stays.
func TestNothingOutlivesTheParent(t *testing.T) {
	needProc(t)
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Binary(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			parent := exec.CommandContext(t.Context(), executable)
			parent.Env = append(os.Environ(), holdCluster+"=1", "TMPDIR="+t.TempDir())
			parent.Stderr = os.Stderr
			stdout, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				_ = parent.Wait()
				t.Fatal(err)
			}
			dir := strings.TrimSpace(line)
			if got := processesOf(t, dir); len(got) != 4 {
				t.Errorf("a running cluster has the processes %q, want four", got)
			}
			if err := parent.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := parent.Wait(); err == nil {
				t.Error("the parent ended as if nothing had happened")
			}
			err = cluster.WaitFor(t.Context(), "every component to be gone", func(context.Context) (bool, error) {
				if left := processesOf(t, dir); len(left) != 0 {
					return false, fmt.Errorf("still there: %q", left)
				}
				return true, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// The other tie to the parent, for systems without a parent-death signal: the end of standard input.
func TestComponentEndsWithItsInput(t *testing.T) {
	binary, err := cluster.Binary(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "etcd", "--data-dir="+t.TempDir(),
		"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0",
		"--listen-peer-urls=http://127.0.0.1:0")
	cmd.Env = append(os.Environ(), "CONTROLPLANE_EXIT_WITH_STDIN=1")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || ctx.Err() != nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v (%v), want exit status 1\n%s", err, ctx.Err(), output.Bytes())
	}
}

func needProc(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("it looks for processes in /proc")
	}
}

// processesOf returns the command lines of the processes that name dir in theirs.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		// One that ended meanwhile cannot be read, and a zombie has no command line any more.
		content, err := os.ReadFile(file)
		if err == nil && bytes.Contains(content, []byte(dir)) {
			found = append(found, strings.ReplaceAll(string(content), "\x00", " "))
		}
	}
	return found
}
