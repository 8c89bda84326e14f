package shared

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/test/cluster"
)

const (
	sealedRelease  = "sealed"
	sealedValues   = `{models: [], volume: {mode: readOnly, readOnly: {source: {csi: {driver: disk.csi.example, volumeHandle: one}}}}}`
	sealedSettings = `
volume: {mode: readOnly, namespace: stoker-system, lease: sealed-stoker-store}
scrub: {rate: %s, cycle: %s}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 1s, gpuRise: 1s, verify: 500ms, retryMin: 200ms, retryMax: 2s, resync: 1s, timeout: 5s}
`
)

func TestReadOnly(t *testing.T) {
	c := startCluster(t)
	binary := build(t)
	for name, test := range map[string]func(*testing.T, *cluster.Cluster, string){
		"what was verified is warm at once":  testSealedAsVerified,
		"what was copied is read once":       testSealedCopy,
		"rot and loss take the label of all": testSealedDamage,
		"models are held in memory":          testSealedInMemory,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { test(t, c, binary) })
	}
}

// volume is one that nobody writes, with a model of some files of a size, for so many
// nodes, which read it at a rate and in a cycle.
type volume struct {
	nodes, files int
	size         int64
	// bare: it was copied file by file, without what Stoker remembers of it.
	bare        bool
	rate, cycle string
}

// newSealed makes a fleet whose volume the real command has filled; it returns how many
// bytes the model has. As root, each node's mount of it is read-only.
func newSealed(tb testing.TB, c *cluster.Cluster, binary string, v volume) (f *fleet, bytes int64) {
	tb.Helper()
	f = newFleetOf(tb, c, binary, v.nodes, sealedRelease, fmt.Sprintf(sealedSettings, v.rate, v.cycle))
	content := fetchertest.Tree{"config.json": fetchertest.Bytes([]byte(`{}`))}
	for i := range v.files {
		weights := make([]byte, v.size)
		_, _ = rand.Read(weights) // it never fails
		content[fmt.Sprintf("model-%02d.safetensors", i)] = fetchertest.Bytes(weights)
	}
	f.hub.AddRepo("acme/model", fetchertest.RepoOptions{})
	if _, err := f.hub.Push(tb.Context(), "acme/model", "main", content); err != nil {
		tb.Fatal(err)
	}
	f.models("model")
	cmd := exec.CommandContext(tb.Context(), binary, "populate", "--config", f.members[0].config, "--store", f.dir, "-o", "json")
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("populate: %v\n%s", err, cmd.Stderr)
	}
	var said struct{ Models []struct{ Bytes int64 } }
	if err := json.Unmarshal(out, &said); err != nil || len(said.Models) != 1 {
		tb.Fatalf("populate said %s, %v", out, err)
	}
	if v.bare {
		copied := filepath.Join(tb.TempDir(), "copy")
		if out, err := exec.CommandContext(tb.Context(), "cp", "-r", "--no-preserve=timestamps", f.dir, copied).CombinedOutput(); err != nil {
			tb.Fatalf("cp: %v\n%s", err, out)
		}
		if err := os.RemoveAll(filepath.Join(copied, "agent")); err != nil {
			tb.Fatal(err)
		}
		f.dir = copied
		for _, m := range f.members {
			if err := os.Remove(m.store); err != nil {
				tb.Fatal(err)
			}
			if err := os.Symlink(f.dir, m.store); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if os.Geteuid() == 0 {
		for _, m := range f.members {
			m.mountReadOnly(tb)
		}
	}
	return f, said.Models[0].Bytes
}

func (m *member) mountReadOnly(tb testing.TB) {
	tb.Helper()
	if err := os.Remove(m.store); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(m.store, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Mount(m.dir, m.store, "", unix.MS_BIND, ""); err != nil {
		tb.Fatalf("mount: %v", err)
	}
	tb.Cleanup(func() {
		m.kill()
		if err := unix.Unmount(m.store, 0); err != nil {
			tb.Errorf("unmount: %v", err)
		}
	})
	if err := unix.Mount("", m.store, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		tb.Fatalf("mount read-only: %v", err)
	}
}

// tree is all that a volume holds, with times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(&b, "%s %s %d %s\n", path, info.Mode(), info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// metric is the value on the agent's page; 0 if it is not there.
func (m *member) metric(name string) float64 {
	m.Helper()
	address := regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`).FindAllStringSubmatch(m.text(), -1)
	if address == nil {
		return 0
	}
	req, err := http.NewRequestWithContext(m.Context(), http.MethodGet, "http://"+address[len(address)-1][1]+"/metrics", http.NoBody)
	if err != nil {
		m.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				m.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// read is what all agents that run have read to verify.
func (f *fleet) read() (n int64) {
	f.Helper()
	for _, m := range f.members {
		n += int64(m.metric("stoker_scrub_read_bytes_total"))
	}
	return n
}

// spoken waits until every agent has spoken so often.
func (f *fleet) spoken(times int) {
	f.Helper()
	for _, m := range f.members {
		f.wait(m.node+" to speak", func() bool { return strings.Count(m.text(), "said for the first time") == times })
	}
}

func (f *fleet) killAll() {
	for _, m := range f.members {
		m.kill()
	}
}

// Labels are there at the first look; nothing is written, nothing asked of the Hub,
// and a restart loses none.
func testSealedAsVerified(t *testing.T, c *cluster.Cluster, binary string) {
	f, size := newSealed(t, c, binary, volume{nodes: many, files: 6, size: 1 << 20, rate: "50Mi", cycle: "1h"})
	sent, before := f.sent(), tree(t, f.dir)
	began := time.Now()
	f.startAll()
	f.waitLabels("model", "shared")
	t.Logf("all %d nodes were labelled after %s", many, since(began))
	if read := f.read(); read >= size {
		t.Errorf("%d bytes of %d were read before what was verified was believed", read, size)
	}
	f.check()
	seen := f.watchLabels("model")
	f.killAll()
	f.startAll()
	f.spoken(2)
	if lost := seen(); len(lost) > 0 {
		t.Errorf("these nodes lost their label: %v", lost)
	}
	for _, m := range f.members {
		m.stop()
		if text := m.text(); strings.Contains(text, "read-only file system") || strings.Contains(text, "level=ERROR") {
			t.Errorf("%s has tried what it may not:\n%s", m.node, text)
		}
	}
	if after := tree(t, f.dir); after != before {
		t.Errorf("the volume was\n%s\nand is\n%s", before, after)
	}
	if now := f.sent(); now != sent {
		t.Errorf("%d bytes were downloaded by agents", now-sent)
	}
}

// A volume that is not as it was recorded is read once, by all nodes together, and
// labelled then; what was found outlives all agents.
func testSealedCopy(t *testing.T, c *cluster.Cluster, binary string) {
	f, size := newSealed(t, c, binary, volume{nodes: many, files: 32, size: 1 << 20, bare: true, rate: "1Mi", cycle: "1h"})
	began := time.Now()
	f.startAll()
	f.wait("a node to say how far it is", func() bool { return strings.Contains(f.members[0].status(), "so the agents read all of it") })
	f.waitLabels("model", "shared")
	t.Logf("all %d nodes were labelled after %s, at 1 MiB/s each", many, since(began))
	f.check()
	read := f.read()
	t.Logf("%d nodes read %.3f times the volume", many, float64(read)/float64(size))
	if read < size || read > size+size/8 {
		t.Errorf("%d nodes read %d bytes of a volume of %d", many, read, size)
	}

	seen := f.watchLabels("model")
	f.killAll()
	f.startAll()
	f.spoken(2)
	if lost := seen(); len(lost) > 0 {
		t.Errorf("these nodes lost their label: %v", lost)
	}
	if again := f.read(); again > 0 {
		t.Errorf("%d bytes were read again", again)
	}

	// Without what they told each other, each goes by what it knows itself.
	if err := c.Client().CoordinationV1().Leases(namespace).Delete(t.Context(), f.leaseName(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	seen = f.watchLabels("model")
	f.wait("the ledger to be told anew", func() bool { return f.lease().Annotations[agent.VerifiedAnnotation] != "" })
	if lost := seen(); len(lost) > 0 {
		t.Errorf("without a ledger, these nodes lost their label: %v", lost)
	}
}

// What rots is found within a cycle by one, and then by all; what is gone shows at
// the next look.
func testSealedDamage(t *testing.T, c *cluster.Cluster, binary string) {
	f, _ := newSealed(t, c, binary, volume{nodes: 4, files: 6, size: 1 << 20, rate: "50Mi", cycle: "5s"})
	f.startAll()
	f.waitLabels("model", "shared")
	s, err := store.OpenReadOnly(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Lookup("model")
	if err != nil {
		t.Fatal(err)
	}
	rotten := s.BlobPath(m.Files[3].SHA256)
	info, err := os.Stat(rotten)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		t.Helper()
		// In place: the same inode, size and time.
		file, err := os.OpenFile(rotten, os.O_WRONLY, 0)
		if err == nil {
			_, err = file.Write(data)
			if closeErr := file.Close(); err == nil {
				err = closeErr
			}
		}
		if err == nil {
			err = os.Chtimes(rotten, info.ModTime(), info.ModTime())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(rotten, 0o644); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(rotten)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 1
	write(damaged)
	f.waitLabels("model", "")
	f.wait("all to say why", func() bool {
		for _, node := range f.members {
			if !strings.Contains(node.status(), "has read "+m.Files[3].Path+" from the volume, and its content is wrong") {
				return false
			}
		}
		return true
	})
	f.killAll()
	f.startAll()
	f.spoken(2)
	for _, m := range f.members {
		if m.label("model") != "" {
			t.Errorf("%s calls it warm again", m.node)
		}
	}
	write(whole)
	f.waitLabels("model", "shared")
	f.check()

	if err := os.Remove(rotten); err != nil {
		t.Fatal(err)
	}
	f.waitLabels("model", "")
}

// What is to be in memory is read into it from such a volume as well.
func testSealedInMemory(t *testing.T, c *cluster.Cluster, binary string) {
	f, size := newSealed(t, c, binary, volume{nodes: 1, files: 4, size: 1 << 20, rate: "50Mi", cycle: "1h"})
	f.settings += "ram: {budget: 1Gi}\n"
	f.models("model")
	list := strings.Replace(f.list, "refresh: 1h", "refresh: 1h, ram: true", 1)
	if err := os.WriteFile(f.members[0].config, []byte(list+f.settings), 0o644); err != nil {
		t.Fatal(err)
	}
	f.startAll()
	f.waitLabels("model", "ram")
	if resident := f.members[0].metric(`stoker_model_resident_bytes{model="model"}`); int64(resident) < size*98/100 {
		t.Errorf("%.0f of %d bytes are in memory", resident, size)
	}
}

// BenchmarkReadOnly starts 32 agents on one volume that nobody writes: as it was
// verified, and copied file by file. How long it takes until all nodes are labelled,
// how often the volume was read for that, and what it costs the API server; and the
// same when all start again.
func BenchmarkReadOnly(b *testing.B) {
	const agents = 32
	c := startCluster(b)
	binary := build(b)
	for name, bare := range map[string]bool{"verified": false, "copied": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f, size := newSealed(b, c, binary, volume{nodes: agents, files: 64, size: 4 << 20, bare: bare, rate: "2Mi", cycle: "1h"})
				writes, began := f.writes(), time.Now()
				f.startAll()
				f.waitLabels("model", "shared")
				b.ReportMetric(time.Since(began).Seconds(), "s")
				b.ReportMetric(float64(f.read())/float64(size), "times-read")
				b.ReportMetric(float64(f.writes()-writes)/agents, "writes/agent")
				f.check()

				seen := f.watchLabels("model")
				f.killAll()
				writes, began = f.writes(), time.Now()
				f.startAll()
				f.spoken(2)
				b.ReportMetric(time.Since(began).Seconds(), "s-again")
				b.ReportMetric(float64(f.read())/float64(size), "times-read-again")
				b.ReportMetric(float64(f.writes()-writes)/agents, "writes-again/agent")
				if lost := seen(); len(lost) > 0 {
					b.Errorf("these nodes lost their label: %v", lost)
				}
				f.killAll()
			}
		})
	}
}
