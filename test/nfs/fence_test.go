//go:build e2e && linux

package nfs_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/ordeal"
)

const (
	// fenceBytes is the size of the fence's models, fenceRate how many bytes a second the Hub sends while something is to
	// happen in the middle of a pull.
	fenceBytes = 24 << 20
	fenceRate  = 3 << 20
)

// Writers that lose their Lease in the middle of their work, because their machine is cut off, paused or has no power,
// or because the file server has none, do no harm when they come back, and another one finishes what they began.
func TestFence(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	t.Logf("to take it again: -run TestFence -seed %d", seed)
	f := &fenceTest{fleet: newFleet(t, 3), r: rand.New(rand.NewPCG(seed, 0)), trees: map[string]fetchertest.Tree{}}
	f.part("one pull labels all nodes", f.pullOnce)
	f.part("the writer's machine is cut off", f.cutOff)
	f.part("the writer keeps what it cannot send", f.lateData)
	for i := range *roundsFlag {
		f.part(fmt.Sprintf("the writer's machine is paused while it publishes, round %d", i), f.pausedPublishing)
		f.part(fmt.Sprintf("the writer's machine is paused while it removes, round %d", i), f.pausedRemoving)
	}
	f.part("the writer's machine loses its power", f.powerCut)
	f.part("the server loses its power", func() { f.serverCut(false) })
	f.part("the server loses its power and its clients", func() { f.serverCut(true) })
}

type fenceTest struct {
	*fleet
	r     *rand.Rand
	seeds uint64
	trees map[string]fetchertest.Tree
}

// pushNext pushes a model that is not on the list yet and returns its name.
func (f *fenceTest) pushNext(files int) string {
	f.seeds++
	name := fmt.Sprintf("model-%d", f.seeds)
	f.trees[name] = modelTree(f.T, f.seeds, fenceBytes, files)
	commit := f.source.Push(f.T, "acme/"+name, f.trees[name])
	f.entries[name] = entry{repo: "acme/" + name, commit: commit}
	return name
}

// sent is how much the Hub has sent of a model.
func (f *fenceTest) sent(name string) int64 {
	n := int64(0)
	for _, file := range f.source.Files(f.commitOf(name)) {
		n += f.source.Sent(file.SHA256)
	}
	return n
}

// size is how many bytes a model has.
func (f *fenceTest) size(name string) int64 {
	n := int64(0)
	for _, file := range f.source.Files(f.commitOf(name)) {
		n += file.Size
	}
	return n
}

// midPull lists a model, waits until a part of it was sent, and returns its name and who pulls it.
func (f *fenceTest) midPull(files int, part float64) (name string, writer *member) {
	name = f.pushNext(files)
	f.source.Hub.SetBytesPerSecond(fenceRate)
	f.list(true, name)
	f.waitFor("the Hub to have sent a part of the model", func() bool { return float64(f.sent(name)) >= part*float64(f.size(name)) })
	return name, f.writer()
}

// done waits until everybody has a model, holds everything against its bytes, and takes the model off.
func (f *fenceTest) done(name string) {
	f.Helper()
	f.source.Hub.SetBytesPerSecond(0)
	f.waitLabels(name, true, f.members...)
	f.checkNow(f.members...)
	f.checkOneWriter()
	f.list(false, name)
	f.waitLabels(name, false, f.members...)
	f.waitFor("the model's files to be removed", func() bool {
		return strings.TrimSpace(f.output(f.server, "cd "+f.onServer(fleetStore)+" && ls manifests/"+name+" blobs/sha256 2>/dev/null | grep -v :; true")) == ""
	})
	f.clearAllowances()
}

// checkOneWriter demands that one writer's folder is left.
func (f *fenceTest) checkOneWriter() {
	f.Helper()
	if left := strings.Fields(f.output(f.server, "ls "+f.onServer(epochs))); len(left) != 1 {
		f.Errorf("folders of writers: %v", left)
	}
}

// takenOver waits until another member than this one writes.
func (f *fenceTest) takenOver(from *member) *member {
	f.Helper()
	began := time.Now()
	var next *member
	f.waitFor("another writer", func() bool {
		next = f.holder()
		return next != nil && next != from
	})
	f.Logf("%s took over from %s after %s", next.node, from.node, time.Since(began).Round(100*time.Millisecond))
	return next
}

// published describes what a model has published: names, inodes, sizes and times of manifest and links.
func (f *fenceTest) publishedAs(name string) string {
	f.Helper()
	return f.output(f.server, fmt.Sprintf("cd %s && find manifests/%[2]s models/%[2]s -printf '%%p %%i %%s %%T@ %%l\\n' | sort", f.onServer(fleetStore), name))
}

// backWhile lets a member come back (back does it) and send what its machine has kept. It demands that the member does
// not write again, and that what others have published stays, names and bytes.
func (f *fenceTest) backWhile(name string, m *member, back func()) {
	f.Helper()
	others := f.others(m)
	f.checkNow(others...)
	before := f.publishedAs(name)
	began, paused, writes := time.Now(), m.paused.Load(), int64(0)
	if !paused {
		writes = f.writes(m)
	}
	back()
	if paused {
		writes = f.writes(m)
	}
	flushed := f.start(m.machine, "sync")
	for flushing, looks := true, 0; flushing; looks++ {
		select {
		case <-flushed.Done():
			flushing = false
			f.Logf("%s sent the last of its data after %s, in %d calls; %d looks meanwhile",
				m.node, time.Since(began).Round(100*time.Millisecond), f.writes(m)-writes, looks)
		default:
		}
		if time.Since(began) > 2*time.Minute {
			f.Fatalf("%s does not send the rest of its data", m.node)
		}
		f.checkBytes(others[looks%len(others)], name)
	}
	f.waitLabels(name, true, f.members...)
	f.checkNow(f.members...)
	if after := f.publishedAs(name); after != before {
		f.Errorf("what was published has changed from\n%s\nto\n%s", before, after)
	}
	if w := f.writer(); w == m {
		f.Errorf("%s writes again", m.node)
	}
}

// checkBytes reads a published model's bytes on a member, past its caches.
func (f *fenceTest) checkBytes(by *member, name string) {
	f.Helper()
	c, err := by.view.read(f.Context(), true)
	if err != nil {
		f.Fatalf("read the store on %s: %v", by.node, err)
	}
	if err := c.check(f.source, name, f.commitOf(name)[:ordeal.RevLength]); err != nil {
		f.Errorf("late data: %s reads: %v\n%s", by.node, err, f.differences(name))
	}
}

// differences describes where published files differ from what was pushed.
func (f *fenceTest) differences(name string) string {
	f.Helper()
	dir := filepath.Join(shared, "pushed", name)
	for path, content := range f.trees[name] {
		at := filepath.Join(dir, path)
		data, err := io.ReadAll(content.Reader())
		f.must("read a model", err)
		f.must("write a model", os.MkdirAll(filepath.Dir(at), 0o755))
		f.must("write a model", os.WriteFile(at, data, 0o644))
	}
	return f.output(f.server, fmt.Sprintf(`cd %s/models/%s/%s && find . ! -type d | while read -r path; do
	echo "$path $(stat -Lc %%y "$path")"
	cmp -l "$path" %s/"$path" 2>&1 | awk '!/^ *[0-9]/ { print; next } $1 != last+1 { if (n) print "  from", first, "to", last, "zeros", zeros; first = $1; zeros = 0 } { n++; last = $1; zeros += $2 == 0 } END { if (n) print "  from", first, "to", last, "zeros", zeros }' | head -40
done`, f.onServer(fleetStore), name, f.commitOf(name), programDir+"/pushed/"+name))
}

// writes is how many calls of WRITE a machine has made.
func (f *fenceTest) writes(m *member) int64 {
	f.Helper()
	return number(f.run(m.machine, "awk '$1 == \"WRITE:\" { print $2; exit }' /proc/self/mountstats"))
}

// dirty is how many KiB of a machine's memory wait to be written.
func (f *fenceTest) dirty(m *member) int64 {
	f.Helper()
	return number(f.run(m.machine, "awk '/^(Dirty|Writeback):/ { n += $2 } END { print n }' /proc/meminfo"))
}

func (f *fenceTest) pullOnce() {
	name := f.pushNext(2)
	began := time.Now()
	f.list(true, name)
	f.waitLabels(name, true, f.members...)
	f.Logf("all nodes are labelled after %s", time.Since(began).Round(100*time.Millisecond))
	// One that loses its Lease on a busy machine asks again for what was on its way.
	if sent := f.sent(name); sent > f.size(name)*3/2 {
		f.Errorf("the Hub sent %d bytes of %d", sent, f.size(name))
	}
	f.done(name)
}

// cutOff cuts the writer's machine off in the middle of a pull, for longer than its Lease.
func (f *fenceTest) cutOff() {
	name, m := f.midPull(2, 0.4)
	sent := f.sent(name)
	m.cut()
	f.Logf("%s is cut off; %d KiB wait in its memory", m.node, f.dirty(m))
	f.allowances.drop(name)
	f.takenOver(m)
	f.source.Hub.SetBytesPerSecond(0)
	f.waitLabels(name, true, f.others(m)...)
	f.Logf("of %d bytes %d were sent again", f.size(name), f.sent(name)-f.size(name))
	if again := f.sent(name) - f.size(name); again > sent+fenceRate {
		f.Errorf("%d bytes were sent again, of %d that the first writer had", again, sent)
	}
	f.backWhile(name, m, m.connect)
	if !strings.Contains(m.log(), "another agent may write into the shared volume") {
		f.Errorf("%s does not log that it lost its Lease", m.node)
	}
	f.done(name)
}

// lateData cuts the writer's machine off the file server, but not off the Hub, and its agent off the API server: so its
// memory fills with data of a transfer that it sends when another writer has finished it.
func (f *fenceTest) lateData() {
	name, m := f.midPull(2, 0.2)
	f.allowances.drop(name)
	m.loose.Store(true)
	m.view.close()
	// A route of the kind blackhole would have connecting fail with EINVAL, which makes the client give its mount up.
	f.output(m.machine, "modprobe dummy numdummies=0 && ip link add lost type dummy && ip link set lost up && ip route add "+f.server.Address()+" dev lost")
	f.waitFor("data to wait in the writer's memory", func() bool { return f.dirty(m) > 1<<10 || f.sent(name) >= f.size(name)*9/10 })
	m.api.Set(ordeal.APIFault{Gate: ordeal.GateHangs})
	f.Logf("%d KiB wait in the memory of %s", f.dirty(m), m.node)
	f.takenOver(m)
	f.source.Hub.SetBytesPerSecond(0)
	f.waitLabels(name, true, f.others(m)...)
	f.Logf("%d KiB wait still", f.dirty(m))
	f.backWhile(name, m, func() {
		f.output(m.machine, "ip link del lost")
		m.view.open()
		f.pass(ordeal.Within(f.r, 2*time.Second))
		m.api.Set(ordeal.APIFault{})
	})
	f.done(name)
}

// pausedPublishing pauses the writer's machine at some moment between the end of its transfers and its manifest.
func (f *fenceTest) pausedPublishing() {
	name, m := f.midPull(4, 0.8)
	f.waitFor("the end of the transfers", func() bool { return f.sent(name) >= f.size(name) })
	f.pass(ordeal.Within(f.r, 400*time.Millisecond))
	f.allowances.drop(name)
	m.freeze()
	f.Logf("%s is paused; there are %s", m.node, f.names(name))
	f.takenOver(m)
	f.waitLabels(name, true, f.others(m)...)
	f.backWhile(name, m, m.thaw)
	f.done(name)
}

// names counts what is there of a model by kind.
func (f *fenceTest) names(name string) string {
	f.Helper()
	return strings.Join(strings.Fields(f.output(f.server, fmt.Sprintf(`cd %s
for what in partial blobs models/%[2]s manifests/%[2]s agent/trash; do echo "$what:$(find $what ! -type d 2>/dev/null | wc -l)"; done`, f.onServer(fleetStore), name))), " ")
}

// pausedRemoving pauses the writer's machine at some moment of a removal, and lets another one publish the same model
// again before it goes on.
func (f *fenceTest) pausedRemoving() {
	name := f.pushNext(4)
	f.list(true, name)
	f.waitLabels(name, true, f.members...)
	m := f.writer()
	gone := f.start(f.server, "while ls "+f.onServer(fleetStore)+"/manifests/"+name+"/*.json >/dev/null 2>&1; do :; done")
	f.list(false, name)
	select {
	case <-gone.Done():
	case <-time.After(time.Minute):
		f.Fatal("the manifest is not removed")
	}
	f.pass(ordeal.Within(f.r, 150*time.Millisecond))
	m.freeze()
	f.Logf("%s is paused; there are %s", m.node, f.names(name))
	f.list(true, name)
	f.takenOver(m)
	f.waitLabels(name, true, f.others(m)...)
	f.backWhile(name, m, m.thaw)
	f.done(name)
}

// powerCut cuts the power of the writer's machine in the middle of a pull. The other Nodes' labels of a model that is
// warm stay meanwhile: nobody waits for what the dead machine had.
func (f *fenceTest) powerCut() {
	warm := f.pushNext(2)
	f.source.Hub.SetBytesPerSecond(0)
	f.list(true, warm)
	f.waitLabels(warm, true, f.members...)
	name, m := f.midPull(2, 0.5)
	f.checkNothingLent()
	f.allowances.drop(name)
	m.powerOff()
	f.takenOver(m)
	f.source.Hub.SetBytesPerSecond(0)
	f.waitLabels(name, true, f.others(m)...)
	f.Logf("of %d bytes %d were sent again", f.size(name), f.sent(name)-f.size(name))
	f.checkNow(f.others(m)...)
	m.powerOn()
	f.waitLabels(warm, true, f.members...)
	f.list(false, warm)
	f.done(name)
}

// checkNothingLent demands that no client has a delegation of a file that agents replace, or look at: others would wait
// for one that has and is gone. Blobs are lent to those who read them as pods do, as this test.
func (f *fenceTest) checkNothingLent() {
	f.Helper()
	lent := f.output(f.server, `grep -h "type: deleg" /proc/fs/nfsd/clients/*/states | grep -v 'filename: "sha256/[0-9a-f]*"'; true`)
	if lent != "" {
		f.Errorf("clients have delegations:\n%s", lent)
	}
}

// serverCut cuts the file server's power in the middle of a pull, beside another model that is warm.
func (f *fenceTest) serverCut(forget bool) {
	warm := f.pushNext(2)
	f.source.Hub.SetBytesPerSecond(0)
	f.list(true, warm)
	f.waitLabels(warm, true, f.members...)
	name, _ := f.midPull(2, 0.5)
	f.killServer()
	f.pass(ordeal.Within(f.r, 5*time.Second))
	f.startServer(forget)
	began := time.Now()
	f.waitLabels(name, true, f.members...)
	f.Logf("the model was pulled %s after the server's start; %d bytes were sent again", time.Since(began).Round(100*time.Millisecond), f.sent(name)-f.size(name))
	f.waitLabels(warm, true, f.members...)
	f.checkNow(f.members...)
	f.list(false, warm)
	f.done(name)
	if left := slices.Collect(maps.Keys(f.wanted())); len(left) > 0 {
		f.Errorf("the list still has %v", left)
	}
}
