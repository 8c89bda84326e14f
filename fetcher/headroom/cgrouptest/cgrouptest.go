// Package cgrouptest makes memory cgroups for tests, of version 1 or 2: whichever
// this machine has the memory controller in.
package cgrouptest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mounts is where cgroups are mounted.
const mounts = "/sys/fs/cgroup"

// controller is the memory controller's name.
const controller = "memory"

// hierarchy is where memory cgroups can be made.
type hierarchy struct {
	root string
	v2   bool
}

// find looks below the directory where cgroups are mounted. In version 2 it hands
// the controller on to the root's children: without that they have no limit.
func find(mounts string) (hierarchy, error) {
	v1 := filepath.Join(mounts, controller)
	if _, err := os.Stat(filepath.Join(v1, "cgroup.procs")); err == nil {
		return hierarchy{root: v1}, nil
	}
	for _, root := range []string{mounts, filepath.Join(mounts, "unified")} {
		have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(have)), controller) {
			continue
		}
		if err != nil {
			return hierarchy{}, err
		}
		return hierarchy{root: root, v2: true}, delegate(root)
	}
	return hierarchy{}, fmt.Errorf("no hierarchy below %s has the memory controller", mounts)
}

// delegate hands the memory controller on to the children of a cgroup of version 2.
// One that has processes of its own refuses that, unless it is the machine's root.
func delegate(root string) error {
	path := filepath.Join(root, "cgroup.subtree_control")
	has, err := os.ReadFile(path)
	if err != nil || slices.Contains(strings.Fields(string(has)), controller) {
		return err
	}
	return os.WriteFile(path, []byte("+"+controller), 0)
}

// Group is a memory cgroup.
type Group struct {
	tb   testing.TB
	at   hierarchy
	path string
}

// New makes a cgroup with a limit in bytes, which goes with the test: by then no
// process may be in it, but for those that are ending. Where none can be made, the
// test is skipped; .ci/run knows it by these words.
func New(tb testing.TB, limit int64) *Group {
	tb.Helper()
	at, err := find(mounts)
	g := &Group{tb: tb, at: at, path: filepath.Join(at.root, "stoker-test-"+strconv.Itoa(os.Getpid()))}
	if err == nil {
		err = os.Mkdir(g.path, 0o755)
	}
	if err != nil {
		tb.Skipf("SKIPPED: no memory cgroup can be made here: %v", err)
	}
	tb.Cleanup(g.remove)
	g.SetLimit(limit)
	return g
}

func (g *Group) remove() {
	for range 250 { // its last process may still be ending
		if os.Remove(g.path) == nil {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	g.tb.Errorf("the cgroup %s stays", g.path)
}

// file chooses a file by the hierarchy's version.
func (g *Group) file(v1, v2 string) string {
	if g.at.v2 {
		return filepath.Join(g.path, v2)
	}
	return filepath.Join(g.path, v1)
}

func (g *Group) write(path, text string) {
	g.tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		g.tb.Fatal(err)
	}
}

func (g *Group) read(path string) string {
	g.tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		g.tb.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (g *Group) bytes(path string) int64 {
	g.tb.Helper()
	n, err := strconv.ParseInt(g.read(path), 10, 64)
	if err != nil {
		g.tb.Fatalf("%s: %v", path, err)
	}
	return n
}

// SetLimit changes the limit.
func (g *Group) SetLimit(bytes int64) {
	g.tb.Helper()
	g.write(g.file("memory.limit_in_bytes", "memory.max"), strconv.FormatInt(bytes, 10))
}

// Enter moves a process into the cgroup.
func (g *Group) Enter(pid int) {
	g.tb.Helper()
	g.write(filepath.Join(g.path, "cgroup.procs"), strconv.Itoa(pid))
}

// EnterSelf moves this process into the cgroup until the test ends.
func (g *Group) EnterSelf() {
	g.tb.Helper()
	back := filepath.Join(g.at.root, own(g.read("/proc/self/cgroup"), g.at.v2), "cgroup.procs")
	g.Enter(os.Getpid())
	g.tb.Cleanup(func() { g.write(back, strconv.Itoa(os.Getpid())) })
}

// own is the cgroup that /proc/self/cgroup names in the memory hierarchy.
func own(text string, v2 bool) string {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if v2 && parts[0] == "0" || !v2 && slices.Contains(strings.Split(parts[1], ","), controller) {
			return parts[2]
		}
	}
	return "/"
}

// Charged is how many bytes the cgroup is charged for.
func (g *Group) Charged() int64 {
	g.tb.Helper()
	return g.bytes(g.file("memory.usage_in_bytes", "memory.current"))
}

// MostCharged is the most that it was ever charged for; 0 where the kernel does not
// keep that (version 2 before Linux 5.19).
func (g *Group) MostCharged() int64 {
	g.tb.Helper()
	path := g.file("memory.max_usage_in_bytes", "memory.peak")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	return g.bytes(path)
}

// CheckNoneKilled fails the test if a process was killed for want of memory.
func (g *Group) CheckNoneKilled() {
	g.tb.Helper()
	text := g.read(g.file("memory.oom_control", "memory.events"))
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "oom_kill 0" {
			return
		}
	}
	g.tb.Errorf("somebody was killed: %s", text)
}
