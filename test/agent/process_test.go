package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

// process is the real binary as one Node's agent.
type process struct {
	testing.TB
	cluster *cluster.Cluster
	dir     string
	node    string
	binary  string
	store   string
	log     *log
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
	p.binary = filepath.Join(p.dir, "stoker")
	build := exec.CommandContext(tb.Context(), "go", "build", "-tags", "disable_grpc_modules,grpcnotrace", "-trimpath", "-ldflags", "-s -w -extldflags=-Wl,-z,lazy", "-o", p.binary, "./cmd/stoker")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
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
	p.log = &log{}
	cmd := exec.CommandContext(context.WithoutCancel(p.Context()), p.binary, "agent", "--config", path, "--store", p.store,
		"--node-name", p.node, "--gpus", "simulated:dgxh200", "--kubeconfig", kubeconfig, "--listen", "127.0.0.1:0")
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	p.signal = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.Error(err)
		}
	})
	p.stop = sync.OnceFunc(func() {
		p.signal()
		if err := cmd.Wait(); err != nil {
			p.Errorf("agent: %v", err)
		}
		if p.Failed() {
			p.Logf("the agent's log:\n%s", p.log.String())
		}
	})
	p.Cleanup(p.stop)
}

// healthy asks the process as a kubelet does.
func (p *process) healthy(ctx context.Context) error {
	address := regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`).FindStringSubmatch(p.log.String())
	if address == nil {
		return errors.New("it does not listen yet")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address[1]+"/healthz", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz answers %s", resp.Status)
	}
	return nil
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
