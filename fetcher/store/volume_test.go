package store_test

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/store"
)

// mount puts a file system at a new directory until the test ends.
func mount(t *testing.T, source, fsType, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what other file systems can do is not tested here")
	}
	dir := filepath.Join(t.TempDir(), "the mount") // mountinfo escapes the space
	must(t, os.Mkdir(dir, 0o755))
	if err := unix.Mount(source, dir, fsType, 0, options); err != nil {
		t.Skipf("SKIPPED, no %s can be mounted (%v)", fsType, err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountImage makes a file system in a file and mounts it.
func mountImage(t *testing.T, mkfs ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what other file systems can do is not tested here")
	}
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skipf("SKIPPED, no %s here: what its file system can do is not tested", mkfs[0])
	}
	image, dir := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "the mount")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	must(t, os.Mkdir(dir, 0o755))
	run := func(name string, args ...string) {
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run(mkfs[0], append(mkfs[1:], image)...)
	run("mount", "-o", "loop", image, dir)
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestProbe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mount    func(*testing.T) string
		fsType   string
		local    bool
		reserves bool
		maxFile  int64
	}{
		"tmpfs": {func(t *testing.T) string { t.Helper(); return mount(t, "none", "tmpfs", "") }, "tmpfs", true, true, math.MaxInt64},
		"overlay": {func(t *testing.T) string {
			t.Helper()
			layers := mount(t, "none", "tmpfs", "")
			for _, dir := range []string{"lower", "upper", "work"} {
				must(t, os.Mkdir(filepath.Join(layers, dir), 0o755))
			}
			return mount(t, "none", "overlay", "lowerdir="+layers+"/lower,upperdir="+layers+"/upper,workdir="+layers+"/work")
		}, "overlay", false, true, math.MaxInt64},
		"ext4": {func(t *testing.T) string { t.Helper(); return mountImage(t, "mkfs.ext4", "-q", "-b", "4096") }, "ext4", true, true, 16<<40 - 4096},
		// Files of blocks listed one by one: none can be reserved, and the list ends.
		"ext2": {func(t *testing.T) string { t.Helper(); return mountImage(t, "mkfs.ext2", "-q", "-b", "1024") }, "ext2", true, false, (12 + 256 + 256*256 + 256*256*256) << 10},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.mount(t)
			s := open(t, filepath.Join(dir, "store"))
			v, err := s.Probe()
			must(t, err)
			want := store.Volume{Mount: v.Mount, Local: c.local, Reserves: c.reserves, MaxFile: c.maxFile}
			if v.Type != c.fsType || v.Point != dir || v != want {
				t.Errorf("the volume is %+v, want %+v", v, want)
			}
			// Asked again as a new process would, in a store that is there.
			again, err := open(t, s.Dir()).Probe()
			if err != nil || again != want {
				t.Errorf("the second time the volume is %+v, %v", again, err)
			}
			left, err := filepath.Glob(s.AgentFile(".stoker-tmp-*"))
			if err != nil || len(left) > 0 {
				t.Errorf("probing left %v, %v", left, err)
			}
			checkFiles(t, s.Path("tiny", publish(t, s, "tiny", repo, commitA, tiny).Revision), tiny)
		})
	}
}

// What is too large for the file system is no matter of room, and known before
// a byte is written.
func TestVolumeFits(t *testing.T) {
	t.Parallel()
	v := store.Volume{Mount: store.Mount{Type: "vfat", Point: "/mnt/stick"}, MaxFile: 1<<32 - 1}
	must(t, v.Fits(map[string]int64{"a": 1<<32 - 1, "A": 0, "b/c": 1}))
	err := v.Fits(map[string]int64{"a": 1, "big": 1 << 32})
	if !errors.Is(err, store.ErrFileTooLarge) || !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a file that is too large gives %v", err)
	}
	const want = "big has 4294967296 bytes, and vfat, mounted at /mnt/stick, holds files of at most 4294967295"
	if err.Error() != want {
		t.Errorf("the error is %q", err)
	}
	v.FoldsCase = true
	for _, sizes := range []map[string]int64{{"README.md": 1, "readme.md": 1}, {"Sub/a": 1, "sub/b": 1}, {"a/B": 1, "A/b": 1}} {
		if err := v.Fits(sizes); !errors.Is(err, store.ErrUnfit) {
			t.Errorf("%v gives %v", sizes, err)
		}
	}
	must(t, v.Fits(map[string]int64{"Sub/a": 1, "Sub/b": 1, "sub.txt": 1}))
}
