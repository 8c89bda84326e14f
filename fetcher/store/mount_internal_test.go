package store

import (
	"os"
	"path/filepath"
	"testing"
)

const mountLines = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:50 / /mnt rw - tmpfs tmpfs rw
41 40 0:51 / /mnt/my\040models rw,relatime shared:5 master:1 - nfs4 10.9.0.1:/models\0401 rw,vers=4.2,hard
42 40 0:52 / /mnt/empty rw - fuse.weak  rw,user_id=0
not a mount
43
`

func TestFindMount(t *testing.T) {
	for id, want := range map[uint64]string{
		22: "ext4 /dev/root, mounted at /",
		40: "tmpfs, mounted at /mnt",
		41: "nfs4 10.9.0.1:/models 1, mounted at /mnt/my models",
		42: "fuse.weak, mounted at /mnt/empty",
	} {
		if m, ok := findMount(mountLines, id); !ok || m.String() != want {
			t.Errorf("mount %d is %q, %v; want %q", id, m, ok, want)
		}
	}
	if m, ok := findMount(mountLines, 43); ok {
		t.Errorf("a line without a mount is %q", m)
	}
}

func TestMountInTable(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/mn": "/", "/mnt": "/mnt", "/mnt2": "/", "/mnt/my models": "/mnt/my models", "/mnt/my models/store": "/mnt/my models", "/mnt/my": "/mnt",
	} {
		if m, ok := mountInTable(mountLines, path); !ok || m.Point != want {
			t.Errorf("%s is in %q, %v; want %q", path, m, ok, want)
		}
	}
	hidden := mountLines + "44 40 0:53 / /mnt rw - xfs /dev/sdb rw\n"
	if m, _ := mountInTable(hidden, "/mnt/x"); m.Type != "xfs" {
		t.Errorf("the mount that hides another is not found, but %q", m)
	}
}

// Both ways find the same where no symlink is on the path.
func TestMountAbove(t *testing.T) {
	if _, err := os.Stat(mountTable); err != nil {
		t.Skip("SKIPPED, no /proc")
	}
	for _, path := range []string{"/proc", "/", t.TempDir()} {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			t.Fatal(err)
		}
		want, ok := mountHolding(real)
		if got := MountAbove(real); ok && got != want {
			t.Errorf("%s is on %q, and asked of the kernel on %q", real, got, want)
		}
	}
}
