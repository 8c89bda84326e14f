package shared

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/cluster"
)

const many = 8

func TestShared(t *testing.T) {
	c := startCluster(t)
	binary := build(t)
	for name, test := range map[string]func(*testing.T, *cluster.Cluster, string){
		"one copy for all":            testOneCopy,
		"a dead writer is replaced":   testDeadWriter,
		"a paused writer is fenced":   testPausedWriter,
		"removal waits for all nodes": testRemoval,
		"an emptied volume is filled": testEmptied,
		"what the last writer knew":   testMemory,
		"weak caches and locks":       testWeak,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { test(t, c, binary) })
	}
}

// A cold start downloads one copy, and when all start again, nothing is downloaded
// and no label goes.
func testOneCopy(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, many)
	const size = 32 << 20
	f.push("tiny", size)
	f.models("tiny")
	began := time.Now()
	f.startAll()
	f.waitLabels("tiny", "shared")
	t.Logf("all %d nodes were labelled after %s", many, since(began))
	if sent := f.sent(); sent < size || sent > size+1<<20 {
		t.Errorf("%d bytes were sent for a model of %d", sent, size)
	}
	f.check()

	sent := f.sent()
	seen := f.watchLabels("tiny")
	began = time.Now()
	for _, m := range f.members {
		m.kill()
	}
	f.startAll()
	for _, m := range f.members {
		f.wait(m.node+" to speak again", func() bool { return strings.Count(m.text(), "said for the first time") == 2 })
	}
	t.Logf("all %d nodes had spoken again after %s", many, since(began))
	f.waitWriterBegan(began)
	if now := f.sent() - sent; now > 1<<20 {
		t.Errorf("%d bytes were downloaded again", now)
	}
	if lost := seen(); len(lost) > 0 {
		t.Errorf("these nodes lost their label: %v", lost)
	}
	f.check()
}

// A writer that is killed in the middle of a transfer is replaced within the time of
// its Lease, and what it had is not downloaded again.
func testDeadWriter(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, 3)
	const size = 96 << 20
	f.push("large", size)
	f.hub.SetBytesPerSecond(8 << 20)
	f.models("large")
	f.startAll()
	first := f.writer()
	f.wait("a part of the model", func() bool { return f.sent() > size/2 })
	first.kill()
	died := time.Now()
	f.wait("another writer", func() bool {
		w := f.writer()
		return w != first && strings.Contains(w.text(), "write into the shared volume from now on")
	})
	if took := time.Since(died); took > 2*leaseSeconds*time.Second {
		t.Errorf("it was replaced after %s", took)
	} else {
		t.Logf("it was replaced after %s", since(died))
	}
	f.hub.SetBytesPerSecond(0)
	first.start()
	f.waitLabels("large", "shared")
	sent := f.sent()
	t.Logf("%d bytes were sent for a model of %d", sent, size)
	// What was not at a checkpoint of another machine's is fetched again; here it is
	// the same boot, so only what the kill cut.
	if sent > size+size/4 {
		t.Errorf("%d bytes were sent for a model of %d: it was not gone on with", sent, size)
	}
	f.check()

	// One that ends in good order gives the Lease away.
	w := f.writer()
	w.stop()
	f.wait("a writer after one that has ended", func() bool { return f.writer() != w })
	w.start()
}

// A writer that is paused past its Lease, and goes on, publishes nothing.
func testPausedWriter(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, 3)
	const size = 48 << 20
	f.push("model", size)
	f.hub.SetBytesPerSecond(8 << 20)
	f.models("model")
	f.startAll()
	first := f.writer()
	f.wait("a part of the model", func() bool { return f.sent() > size/2 })
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
	if w := f.writer(); w != second {
		t.Errorf("%s writes, %s did", w.node, second.node)
	}
	f.check()
}

// Before the files go, no node may promise them any more: also one whose agent is
// paused, until somebody takes its label away.
func testRemoval(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, 3)
	f.push("gone", 1<<20)
	f.push("stays", 1<<20)
	f.models("gone", "stays")
	f.startAll()
	f.waitLabels("gone", "shared")
	f.waitLabels("stays", "shared")
	writer := f.writer()
	var deaf *member
	for _, m := range f.members {
		if m != writer {
			deaf = m
		}
	}
	deaf.kill()
	f.models("stays")
	f.wait("the others to take their labels away", func() bool {
		for _, m := range f.members {
			if (m.label("gone") == "") != (m != deaf) {
				return false
			}
		}
		return true
	})
	f.wait("the writer to say whom it waits for", func() bool {
		return strings.Contains(writer.status(), "which waits for "+deaf.node)
	})
	if err := verifyDir(f, "gone"); err != nil {
		t.Errorf("its files went while %s promises them: %v", deaf.node, err)
	}
	deaf.unlabel("gone") // what the sweeper does
	f.wait("the files to go", func() bool { return verifyDir(f, "gone") != nil })
	deaf.start()
	f.waitLabels("stays", "shared")
	f.check()
}

// A volume that somebody has emptied is filled again, by the agent that wrote there
// or by another one.
func testEmptied(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, 2)
	f.push("model", 1<<20)
	f.models("model")
	f.startAll()
	for round := range 2 {
		f.waitLabels("model", "shared")
		sent := f.sent()
		entries, err := os.ReadDir(f.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(f.dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		f.wait(fmt.Sprintf("the model to be downloaded again after the volume was emptied %d times", round+1), func() bool { return f.sent() >= sent+1<<20 })
	}
	f.waitLabels("model", "shared")
	f.check()
}

// What a writer holds because of the list, the next one knows, whenever it started:
// what the list does not name any more, it lets go of.
func testMemory(t *testing.T, c *cluster.Cluster, binary string) {
	f := newFleet(t, c, binary, 2)
	f.push("gone", 1<<20)
	f.models()
	f.startAll()
	first := f.writer()
	f.wait("all to have looked at an empty volume", func() bool {
		return !slices.ContainsFunc(f.members, func(m *member) bool { return !strings.Contains(m.text(), "said for the first time") })
	})
	f.models("gone")
	f.waitLabels("gone", "shared")
	f.wait("the writer to write down what it holds", func() bool {
		memory, err := os.ReadFile(filepath.Join(f.dir, "agent", "memory.json"))
		return err == nil && strings.Contains(string(memory), "gone")
	})
	first.kill()
	f.models()
	first.unlabel("gone") // what the sweeper does
	f.wait("the files to go", func() bool {
		_, err := os.Stat(filepath.Join(f.dir, "manifests", "gone"))
		return os.IsNotExist(err)
	})
}
