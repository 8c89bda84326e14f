package shared

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/weakfs"
)

// cached is for how long the weak file system believes what it has seen: names,
// names that were not there, sizes and times.
const cached = 2 * time.Second

// weaken gives each agent a mount of its own for the volume, as a network's clients
// have: what one of them does shows to the others when their caches have run out, and
// flock excludes nobody but processes of the same mount.
func (f *fleet) weaken(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts through FUSE")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no FUSE here: ", err)
	}
	var mounts []string
	for _, m := range f.members {
		m.store = filepath.Join(t.TempDir(), "mount")
		if err := os.Mkdir(m.store, 0o755); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, m.store)
	}
	volume, err := weakfs.Start(weakfs.Options{Dir: f.dir, Mounts: mounts, Cached: cached})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range f.members {
			m.kill()
		}
		if err := volume.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The same on a file system whose caches lie for seconds and whose locks exclude
// nobody: a label waits for what its node sees, and a paused writer is fenced.
func testWeak(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, 2)
	f.weaken(t)
	const size = 48 << 20
	f.push("first", 1<<20)
	f.push("model", size)
	f.models("first")
	f.startAll()
	f.waitLabels("first", "shared")
	f.check()
	if sent := f.sent(); sent > 1<<20+1<<18 {
		t.Errorf("%d bytes were sent for a model of %d", sent, 1<<20)
	}

	f.hub.SetBytesPerSecond(8 << 20)
	f.models("first", "model")
	first := f.writer()
	before := f.sent()
	f.wait("a part of the model", func() bool { return f.sent()-before > size/2 })
	first.process.Signal(syscall.SIGSTOP)
	f.wait("another writer", func() bool {
		w := f.writer()
		return w != first && strings.Contains(w.text(), "write into the shared volume from now on")
	})
	second := f.writer()
	f.hub.SetBytesPerSecond(0)
	f.wait("the model to be there for the next writer", func() bool { return second.label("model") == "shared" })
	first.process.Signal(syscall.SIGCONT)
	f.waitLabels("model", "shared")
	f.wait("the paused one to know", func() bool { return strings.Contains(first.text(), "end all that writes") })
	f.check()

	f.models("model")
	f.waitLabels("first", "")
	f.wait("the files to go", func() bool { return verifyDir(f, "first") != nil })
	f.check()
	for _, m := range f.members {
		if m.label("model") != "shared" {
			t.Errorf("%s lost the label of what stays", m.node)
		}
	}
}
