//go:build e2e && linux

package kernels_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/machine"
)

const (
	// memoryMiB is what the machine of these tests has: for a control plane, and 768 MiB of a model in the page cache.
	memoryMiB = 3072
	// scratchBytes is the size of its disk. Pages of a file system in memory do not leave, so models are on a disk.
	scratchBytes = 8 << 30
	// scratch is where that disk is mounted.
	scratch = "/scratch"
	// packageLimit bounds the tests of one package.
	packageLimit = 5 * time.Minute
)

// Every test of the repository that needs a memory cgroup passes under cgroup v2.
func TestMemoryCGroups(t *testing.T) {
	dir := t.TempDir()
	var packages []goPackage
	for _, m := range modules() {
		found, err := m.findPackages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			t.Fatalf("no package of %s has tests of memory cgroups", m.dir)
		}
		packages = append(packages, found...)
	}
	for i := range packages {
		if err := packages[i].build(t.Context(), filepath.Join(dir, fmt.Sprintf("%d.test", i))); err != nil {
			t.Fatal(err)
		}
	}
	m := bootForTests(t, dir)
	output(t, m, "[ $(stat -f -c %T /sys/fs/cgroup) = cgroup2fs ] && grep -qw memory /sys/fs/cgroup/cgroup.controllers")
	for i, p := range packages {
		t.Run(strings.TrimPrefix(p.ImportPath, "github.com/stoker-project/stoker/"), func(t *testing.T) {
			runTests(t, m, p, fmt.Sprintf("/tests/%d.test", i))
		})
	}
}

// bootForTests boots a machine in which tests of this repository can run: it has the repository and the control plane at
// the host's paths, test binaries at /tests, and a disk for temporary files.
func bootForTests(t *testing.T, tests string) *machine.Machine {
	t.Helper()
	controlPlane, err := cluster.Binary(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := machine.MakeDisk(t.Context(), disk, scratchBytes); err != nil {
		t.Fatal(err)
	}
	m := boot(t, machine.Config{
		Name: "cgroups", N: 1, Memory: memoryMiB, Disks: []string{disk},
		Shares: []machine.Share{
			{Host: tests, Guest: "/tests"},
			{Host: repository, Guest: repository},
			{Host: filepath.Dir(controlPlane), Guest: filepath.Dir(controlPlane)},
		},
	})
	output(t, m, "mkdir "+scratch+" && mount /dev/ubda "+scratch)
	return m
}

// runTests runs the tests of a package that need a cgroup, and demands that each of them passes.
func runTests(t *testing.T, m *machine.Machine, p goPackage, binary string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), packageLimit+time.Minute)
	defer cancel()
	script := fmt.Sprintf("cd '%s' && exec %s -test.v -test.timeout %s -test.run '^(%s)$'", p.Dir, binary, packageLimit, strings.Join(p.tests, "|"))
	process, err := m.Start(ctx, script, "TMPDIR="+scratch, "XDG_CACHE_HOME="+cache, "STOKER_TEST_BINARY="+programDir+"/stoker")
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	result, err := process.Wait(ctx)
	t.Logf("exit code %d:\n%s", result.ExitCode, result.Output)
	if err != nil {
		t.Fatal(err)
	}
	if result.ExitCode != 0 {
		t.Errorf("exit code %d", result.ExitCode)
	}
	if strings.Contains(result.Output, "--- SKIP: ") {
		t.Error("something was skipped")
	}
	for _, name := range p.tests {
		if !regexp.MustCompile(`(?m)^--- PASS: ` + name + ` \(`).MatchString(result.Output) {
			t.Errorf("%s did not run and pass", name)
		}
	}
}
