package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/headroom/cgrouptest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/cluster"
)

// remembering is the short intervals with a budget of memory.
func remembering(budget string) string {
	return strings.Replace(intervals, "resync: 1s", "residency: 200ms, resync: 1s", 1) + fmt.Sprintf("ram: {budget: %q}\n", budget)
}

// blobs are the files of a published model.
func blobs(tb testing.TB, dir, name string) []string {
	tb.Helper()
	s, err := store.OpenReadOnly(dir)
	if err != nil {
		tb.Fatal(err)
	}
	m, err := s.Lookup(name)
	if err != nil {
		tb.Fatal(err)
	}
	var paths []string
	for _, f := range m.Files {
		if f.Size > 0 {
			paths = append(paths, s.BlobPath(f.SHA256))
		}
	}
	return paths
}

// resident counts, by mincore, how much of files is in memory, and how large they
// are.
func resident(tb testing.TB, paths []string) (bytes, size int64) {
	tb.Helper()
	page := int64(os.Getpagesize())
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			tb.Fatal(err)
		}
		mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			tb.Fatal(err)
		}
		pages := make([]byte, (info.Size()+page-1)/page)
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&pages[0])))
		if errno != 0 {
			tb.Fatal(errno)
		}
		if err := unix.Munmap(mapped); err != nil {
			tb.Fatal(err)
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
		var there int64
		for _, p := range pages {
			there += int64(p&1) * page
		}
		bytes, size = bytes+min(there, info.Size()), size+info.Size()
	}
	return bytes, size
}

// coolDown takes files out of memory.
func coolDown(tb testing.TB, paths []string) {
	tb.Helper()
	for _, path := range paths {
		f, err := os.Open(path)
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// readAll reads files, as a server does that loads a model.
func readAll(tb testing.TB, paths []string) {
	tb.Helper()
	buf := make([]byte, 1<<20)
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); err != nil {
			tb.Fatal(err)
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
}

// bulk writes a model of one file with bytes that repeat nowhere, and returns its
// source.
func bulk(tb testing.TB, dir string, size int64) string {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	coolDown(tb, []string{f.Name()})
	return "file://" + dir
}

// The label says ram while the pages are there, whoever has brought them, over a
// restart too; and why not, when they are not.
func testRAM(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	list := fmt.Sprintf("models: [{name: held, source: '%s', ram: true}, {name: plain, source: '%s'}]", b.model("held", 1), b.model("plain", 2))
	b.config(list + remembering("1Gi"))
	a := b.start()
	held := agent.WarmPrefix + "held"
	b.waitLabel(held, agent.TierRAM)
	b.waitLabel(agent.WarmPrefix+"plain", agent.TierDisk)
	paths := blobs(t, b.storePath(), "held")
	if bytes, size := resident(t, paths); bytes < size/100*98 {
		t.Errorf("of %d bytes %d are in memory", size, bytes)
	}
	b.wait("the annotation to say so", func(*corev1.Node) bool {
		m := b.modelStatus("held")
		return m.Tier == agent.TierRAM && m.RAM == agent.RAMResident && m.ResidentBytes == m.Bytes && m.NotInRAM == ""
	})
	if m := b.modelStatus("plain"); m.Tier != agent.TierDisk || m.RAM != "" || m.ResidentBytes != 0 {
		t.Errorf("of a model that is not to be in memory it says %+v", m)
	}
	if v := metric(t, a, `stoker_model_ram_state{model="held",state="resident"}`); v != "1" {
		t.Errorf("the metric is %q", v)
	}

	seen := b.watch()
	b.stop()
	b.start()
	b.waitBeats(2 * time.Second)
	seen.always(held, agent.TierRAM)

	// What has left memory is read again.
	coolDown(t, paths)
	b.wait("the pages to come back", func(*corev1.Node) bool {
		bytes, size := resident(t, paths)
		return bytes == size
	})
	b.waitLabel(held, agent.TierRAM)

	// Outside of the budget it is not read, and yet said when somebody else does.
	b.config(list + remembering("1"))
	b.wait("the budget to be taken over", func(*corev1.Node) bool { return strings.Contains(b.log.String(), "Budget:{Percent:0 Bytes:1}") })
	b.wait("the label to go", func(n *corev1.Node) bool {
		coolDown(t, paths) // a measurement under way may have counted what was there
		return n.Labels[held] == agent.TierDisk
	})
	b.wait("the reason", func(*corev1.Node) bool {
		m := b.modelStatus("held")
		return m.RAM == agent.RAMOverBudget && strings.Contains(m.NotInRAM, "agent.ram.budget is 1 B")
	})
	readAll(t, paths)
	b.waitLabel(held, agent.TierRAM)

	// What pods have asked for is theirs.
	b.config(list + remembering("1Gi"))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "asks-" + b.node},
		Spec: corev1.PodSpec{NodeName: b.node, Containers: []corev1.Container{{
			Name: "large", Image: "large",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Gi")}},
		}}},
	}
	if _, err := b.client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wait("the reason", func(*corev1.Node) bool {
		coolDown(t, paths)
		m := b.modelStatus("held")
		return m.Tier == agent.TierDisk && m.RAM == agent.RAMOverPods && strings.Contains(m.NotInRAM, "pods on this node have asked for 256.")
	})
}

// An agent whose memory limit is several times smaller than a model is not killed,
// reads nothing that would leave again, holds what fits below the limit, and says
// why the rest is not there. Under a larger limit it holds it all.
func TestMemoryLimit(t *testing.T) {
	const (
		limit = 192 << 20
		large = 768 << 20
		small = 32 << 20
	)
	group := cgrouptest.New(t, limit)
	p := newProcess(t, startCluster(t), "limited")
	config := fmt.Sprintf("models: [{name: large, source: '%s', ram: true, priority: 1}, {name: small, source: '%s', ram: true}]%s",
		bulk(t, filepath.Join(p.dir, "large"), large), bulk(t, filepath.Join(p.dir, "small"), small), remembering("2Gi"))
	p.start(config)
	group.Enter(p.pid)
	p.waitWarm(2)
	p.waitTier("small", agent.TierRAM)
	p.waitStatus("it takes 768.0 MiB, and the agent's memory limit is 192.0 MiB")
	p.waitTier("large", agent.TierDisk)
	large1, small1 := blobs(t, p.store, "large"), blobs(t, p.store, "small")

	// For a while nothing of that changes, and nothing is read.
	before, _ := resident(t, large1)
	end := time.Now().Add(5 * time.Second)
	p.waitFor("5 seconds", func(n *corev1.Node) (bool, error) {
		if v := n.Labels[agent.WarmPrefix+"small"]; v != agent.TierRAM {
			t.Errorf("small is %q", v)
		}
		if v := n.Labels[agent.WarmPrefix+"large"]; v != agent.TierDisk {
			t.Errorf("large is %q", v)
		}
		return time.Now().After(end), nil
	})
	if bytes, size := resident(t, small1); bytes < size/10*9 {
		t.Errorf("of small, which is called ram, %d of %d bytes are in memory", bytes, size)
	}
	after, _ := resident(t, large1)
	t.Logf("below a limit of %d MiB: of large, %d of %d MiB are in memory, 5 s later %d; the cgroup was charged for %d bytes at the most",
		limit>>20, before>>20, large>>20, after>>20, group.MostCharged())
	if after > before+large/50 {
		t.Errorf("what cannot stay is read: %d bytes, then %d", before, after)
	}

	// What somebody else brings in is there, whatever the agent's limit.
	readAll(t, large1)
	p.waitTier("large", agent.TierRAM)
	if bytes, size := resident(t, large1); bytes < size/10*9 {
		t.Errorf("of large, which is called ram, %d of %d bytes are in memory", bytes, size)
	}
	coolDown(t, large1)
	p.waitTier("large", agent.TierDisk)

	// Under a limit that has room for it, the agent brings it in by itself.
	group.SetLimit(2 << 30)
	p.waitTier("large", agent.TierRAM)
	p.waitTier("small", agent.TierRAM)
	if charged := group.Charged(); charged < large {
		t.Errorf("the agent's cgroup is charged for %d bytes", charged)
	}
	group.CheckNoneKilled()
	if err := p.healthy(t.Context()); err != nil {
		t.Errorf("the agent does not live: %v", err)
	}
	p.stop()
}

// waitTier waits until the Node says so of a model.
func (p *process) waitTier(model, tier string) {
	p.Helper()
	p.waitFor(model+" to be "+tier, func(n *corev1.Node) (bool, error) {
		if v := n.Labels[agent.WarmPrefix+model]; v != tier {
			return false, fmt.Errorf("it is %q: %s", v, n.Annotations[agent.StatusAnnotation])
		}
		return true, nil
	})
}

// waitFor waits for something about the Node.
func (p *process) waitFor(what string, cond func(*corev1.Node) (bool, error)) {
	p.Helper()
	err := cluster.WaitFor(p.Context(), what, func(ctx context.Context) (bool, error) {
		node, err := p.cluster.Client().CoreV1().Nodes().Get(ctx, p.node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return cond(node)
	})
	if err != nil {
		p.Fatal(err)
	}
}

// The estimate of how long a model takes to load, against loading it. The disk is
// shared, and may be slower or faster the next moment: the bound is wide.
func testLoadEstimate(t *testing.T, c *cluster.Cluster) {
	const size, off = 384 << 20, 5
	b := newBench(t, c)
	b.config(fmt.Sprintf("models: [{name: bulk, source: '%s'}]%sscrub: {rate: 4Gi, cycle: 2s}\n", bulk(t, filepath.Join(b.dir, "bulk"), size), intervals))
	a := b.start()
	b.waitLabel(agent.WarmPrefix+"bulk", agent.TierDisk)
	b.waitScrubbed(a)
	b.wait("an estimate", func(*corev1.Node) bool {
		s := b.status().Store
		return b.modelStatus("bulk").LoadSeconds != nil && s.ReadRate > 0 && s.ReadAt != nil && time.Since(*s.ReadAt) < time.Minute
	})
	estimate, err := strconv.ParseFloat(metric(t, a, `stoker_model_load_seconds{model="bulk"}`), 64)
	if err != nil {
		t.Fatal(err)
	}
	said := *b.modelStatus("bulk").LoadSeconds
	b.stop() // its scrub would read at the same time
	paths := blobs(t, b.storePath(), "bulk")
	coolDown(t, paths)
	if bytes, _ := resident(t, paths); bytes > size/100 {
		t.Fatalf("%d bytes are still in memory", bytes)
	}
	began := time.Now()
	readAll(t, paths)
	took := time.Since(began).Seconds()
	t.Logf("loading %d MiB: estimated %.2f s (said as %d s), took %.2f s: off by %+.0f%%", size>>20, estimate, said, took, 100*(estimate/took-1))
	if estimate > off*took || estimate < took/off || said != int64(math.Ceil(estimate)) && said > int64(math.Ceil(1.3*estimate)) {
		t.Errorf("the estimate of %.2f s, said as %d s, is far from %.2f s", estimate, said, took)
	}

	// It is known again after a restart, before anything is read.
	b.config(strings.Replace(string(must(os.ReadFile(b.configPath()))), "scrub: {rate: 4Gi, cycle: 2s}", "scrub: {rate: 1, cycle: 9000h}", 1))
	a = b.start()
	b.waitBeats(time.Second)
	if again, err := strconv.ParseFloat(metric(t, a, `stoker_model_load_seconds{model="bulk"}`), 64); err != nil || again > 2*estimate || again < estimate/2 {
		t.Errorf("after a restart it estimates %.2f s: %v", again, err)
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}
