package store_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// powered is a file system whose power can be cut.
type powered struct {
	t     *testing.T
	image string
	dir   string
}

// newPowered makes an ext4 in a file and mounts it until the test ends.
func newPowered(t *testing.T) *powered {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: what a power cut does is not tested here")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("SKIPPED, no mkfs.ext4: what a power cut does is not tested here")
	}
	p := &powered{t: t, image: filepath.Join(t.TempDir(), "image"), dir: filepath.Join(t.TempDir(), "mounted")}
	must(t, os.WriteFile(p.image, nil, 0o600))
	must(t, os.Truncate(p.image, 64<<20))
	must(t, os.Mkdir(p.dir, 0o755))
	p.run("mkfs.ext4", "-q", p.image)
	p.run("mount", "-o", "loop", p.image, p.dir)
	t.Cleanup(func() {
		if err := unix.Unmount(p.dir, 0); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *powered) run(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.CommandContext(p.t.Context(), name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// cut stops the file system at once: nothing that is not on the disk gets there
// any more, the journal included.
func (p *powered) cut() {
	const shutdown, withoutJournal = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	dir, err := os.Open(p.dir)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, withoutJournal); err != nil {
		p.t.Error(err)
	}
}

// restore mounts the file system again; nobody may have files of it open.
func (p *powered) restore() {
	p.t.Helper()
	must(p.t, unix.Unmount(p.dir, 0))
	p.run("mount", "-o", "loop", p.image, p.dir)
}
