package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/daemon"
)

// process is the real binary as one Node's agent.
type process struct {
	testing.TB
	cluster *cluster.Cluster
	dir     string
	node    string
	binary  string
	store   string
	log     *daemon.Log
	run     *daemon.Process
	pid     int
	// signal asks it to end, as a kubelet does; stop waits for that as well.
	signal, stop func()
}

func newProcess(tb testing.TB, c *cluster.Cluster, node string) *process {
	tb.Helper()
	p := &process{TB: tb, cluster: c, dir: tb.TempDir(), node: node}
	p.store = filepath.Join(p.dir, "store")
	if _, err := p.cluster.AddNode(tb.Context(), cluster.NodeSpec{Name: p.node, GPUs: 8}); err != nil {
		tb.Fatal(err)
	}
	var err error
	if p.binary, err = daemon.Build(tb.Context(), p.dir); err != nil {
		tb.Fatal(err)
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
	p.log = &daemon.Log{}
	run, err := daemon.Start(daemon.Options{Binary: p.binary, Config: path, Store: p.store, Node: p.node, Kubeconfig: kubeconfig, Log: p.log})
	if err != nil {
		p.Fatal(err)
	}
	p.run, p.pid = run, run.PID()
	p.signal = sync.OnceFunc(func() { run.Signal(syscall.SIGTERM) })
	p.stop = sync.OnceFunc(func() {
		p.signal()
		<-run.Done()
		if err := run.Err(); err != nil {
			p.Errorf("agent: %v", err)
		}
		if p.Failed() {
			p.Logf("the agent's log:\n%s", p.log.String())
		}
	})
	p.Cleanup(p.stop)
}

// healthy asks the process as a kubelet does.
func (p *process) healthy(ctx context.Context) error { return p.run.Healthy(ctx) }

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
	text, err := p.run.Field(field)
	if err != nil {
		p.Fatal(err)
	}
	kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
	if err != nil {
		p.Fatal(err)
	}
	return kib << 10
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
