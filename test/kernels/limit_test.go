//go:build e2e && linux

package kernels_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/test/machine"
)

// The least memory limit of cgroup v2 is found on every level, and in a container with or without a cgroup namespace.
func TestMemoryLimitViews(t *testing.T) {
	buildLimit(t)
	m := boot(t, machine.Config{Name: "limits", N: 1})
	const (
		limit = 160 << 20
		more  = 200 << 20
		inner = "/sys/fs/cgroup/outer/inner"
	)
	for name, test := range map[string]struct {
		// limits is the script that sets them, with outer as the working directory.
		limits string
		// run is what the program is run by.
		run  string
		want int64
	}{
		"none":                        {"", "", headroom.None},
		"its own":                     {"echo $limit >inner/memory.max", "", limit},
		"its parent's":                {"echo $limit >memory.max; echo $more >inner/memory.max", "", limit},
		"throttled":                   {"echo $limit >inner/memory.high; echo $more >inner/memory.max", "", limit},
		"its parent's throttling":     {"echo $limit >memory.high; echo $more >inner/memory.max", "", limit},
		"a namespace of its own":      {"echo $limit >inner/memory.max", "unshare --cgroup --mount bash -c 'mount -t cgroup2 none /sys/fs/cgroup; exec \"$0\"'", limit},
		"in the host's namespace":     {"echo $limit >inner/memory.max", "unshare --mount bash -c 'mount --bind " + inner + " /sys/fs/cgroup; exec \"$0\"'", limit},
		"beside the host's hierarchy": {"echo $limit >inner/memory.max", "unshare --cgroup --mount bash -c 'mkdir -p /tmp/own; mount -t cgroup2 none /tmp/own; exec \"$0\"'", limit},
	} {
		t.Run(name, func(t *testing.T) {
			got := output(t, m, fmt.Sprintf(`
set -e
limit=%d more=%d
cd /sys/fs/cgroup
echo +memory >cgroup.subtree_control
mkdir outer
echo +memory >outer/cgroup.subtree_control
mkdir outer/inner
cd outer
%s
(echo $BASHPID >inner/cgroup.procs; exec %s %s/limit)
rmdir inner
cd ..
rmdir outer`, limit, more, test.limits, test.run, programDir))
			if n, err := strconv.ParseInt(strings.TrimSpace(got), 10, 64); err != nil || n != test.want {
				t.Errorf("the limit is read as %q, want %d", got, test.want)
			}
		})
	}
}

// buildLimit builds the program that prints the limit.
func buildLimit(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(programs, "limit"), "./limit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
}
