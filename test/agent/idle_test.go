package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
)

// What the agent costs a node, as a process of the real binary with default
// settings against the real API server. `make bench-agent` runs both.

const (
	manyModels = 50
	manyFiles  = 200
	// idleFor spans two of every default interval below a minute.
	idleFor = time.Minute
)

// BenchmarkIdle reports what an agent takes when 50 models of 200 files are
// warm and nothing changes: the share of one CPU, children counted, and
// memory: resident, and of that what is not a file's. The rest is the
// executable in the page cache, which newer kernels map whole, in huge pages.
func BenchmarkIdle(b *testing.B) {
	p := newProcess(b)
	var list strings.Builder
	for i := range manyModels {
		dir := filepath.Join(p.dir, "sources", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range manyFiles {
			name := filepath.Join(dir, fmt.Sprintf("model-%05d-of-%05d.safetensors", j+1, manyFiles))
			if err := os.WriteFile(name, fmt.Appendf(nil, "model %d file %d", i, j), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		fmt.Fprintf(&list, "- {name: m%d, source: 'file://%s'}\n", i, dir)
	}
	p.start("models:\n" + list.String() + "store: {reserve: 0%}\n")
	p.waitWarm(manyModels)
	var peak int64
	begin, cpu := time.Now(), p.cpu()
	for time.Since(begin) < idleFor {
		peak = max(peak, p.memory("VmRSS"))
		time.Sleep(time.Second) // a sample a second; nothing waits for it
	}
	b.ReportMetric(100*(p.cpu()-cpu).Seconds()/time.Since(begin).Seconds(), "%CPU")
	b.ReportMetric(float64(peak)/(1<<20), "MiB-resident")
	b.ReportMetric(float64(p.memory("RssAnon"))/(1<<20), "MiB-private")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPulling reports the peak of resident memory while an agent pulls two
// models of 1 GiB at once.
func BenchmarkPulling(b *testing.B) {
	p := newProcess(b)
	hub := fetchertest.StartHub(b, fetchertest.HubOptions{})
	var list strings.Builder
	for i := range uint64(2) {
		tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(i, 1<<30, 4))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := hub.Push(b.Context(), fmt.Sprintf("org/m%d", i), "main", tree); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(&list, "- {name: m%d, source: 'hf://org/m%d', endpoint: '%s'}\n", i, i, hub.URL())
	}
	p.start("models:\n" + list.String() + "store: {reserve: 0%}\n")
	p.waitWarm(2)
	b.ReportMetric(float64(p.memory("VmHWM"))/(1<<20), "MiB-peak")
	b.ReportMetric(0, "ns/op")
}

// process is the real binary as one Node's agent.
type process struct {
	*testing.B
	cluster *cluster.Cluster
	dir     string
	node    string
	binary  string
	pid     int
}

func newProcess(b *testing.B) *process {
	b.Helper()
	p := &process{B: b, cluster: startCluster(b), dir: b.TempDir(), node: "idle"}
	if _, err := p.cluster.AddNode(b.Context(), cluster.NodeSpec{Name: p.node, GPUs: 8}); err != nil {
		b.Fatal(err)
	}
	p.binary = filepath.Join(p.dir, "stoker")
	build := exec.CommandContext(b.Context(), "go", "build", "-tags", "disable_grpc_modules", "-trimpath", "-ldflags", "-s -w -extldflags=-Wl,-z,lazy", "-o", p.binary, "./cmd/stoker")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	return p
}

func (p *process) start(config string) {
	p.Helper()
	path := filepath.Join(p.dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		p.Fatal(err)
	}
	kubeconfig, err := p.cluster.AgentKubeconfig(p.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: p.node, Pod: "agent-" + p.node})
	if err != nil {
		p.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(p.Context()), p.binary, "agent", "--config", path, "--store", filepath.Join(p.dir, "store"),
		"--node-name", p.node, "--gpus", "simulated:dgxh200", "--kubeconfig", kubeconfig, "--listen", "")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	p.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			p.Errorf("agent: %v\n%s", err, log.String())
		}
	})
}

// waitWarm waits until the Node calls so many models warm.
func (p *process) waitWarm(n int) {
	p.Helper()
	err := cluster.WaitFor(p.Context(), fmt.Sprintf("%d warm models", n), func(ctx context.Context) (bool, error) {
		node, err := p.cluster.Client().CoreV1().Nodes().Get(ctx, p.node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		warm := 0
		for key := range node.Labels {
			if strings.HasPrefix(key, agent.WarmPrefix) {
				warm++
			}
		}
		return warm == n, nil
	})
	if err != nil {
		p.Fatal(err)
	}
}

// memory reads one line of /proc/PID/status, in bytes.
func (p *process) memory(field string) int64 {
	p.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		p.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				p.Fatal(err)
			}
			return kib << 10
		}
	}
	p.Fatalf("there is no %s", field)
	return 0
}

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go has.
const ticksPerSecond = 100

// cpu is the time that the process and the children it has waited for have
// had, fields 14 to 17 of proc(5)'s stat.
func (p *process) cpu() time.Duration {
	p.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		p.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:])) // from field 3 on
	var ticks int64
	for _, field := range fields[11:15] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			p.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}
