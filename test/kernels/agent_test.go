//go:build e2e && linux

package kernels_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/machine"
)

const (
	namespace = "stoker-system"
	release   = "rel"
	// reserve is a share of the file system, which is the quota's size here.
	reserve     = 20
	agentConfig = `
models: [{name: m, source: '%s'}]
store: {reserve: '%d%%'}
intervals: {observe: 200ms, labelWrites: 200ms, progress: 1s, gpu: 5s, gpuRise: 5s, heartbeat: 1s, verify: 1s, retryMin: 200ms, retryMax: 2s, resync: 1s, timeout: 5s, grace: 1s}
`
)

// An agent takes a project quota for the size of the file system: its free bytes and its reserve are those of the quota,
// and when the quota has been raised, it pulls by itself.
func TestAgentUnderProjectQuota(t *testing.T) {
	for i, kind := range quotaKinds() {
		t.Run(kind.name, func(t *testing.T) {
			q := newQuota(t, kind, i+1).in(t, 1)
			q.limit(tightBytes)
			a := startAgent(q)
			a.waitStatus("the model to be refused", func(s agent.NodeStatus) bool {
				m := s.Models[0]
				return m.State == agent.StateSkipped && strings.Contains(m.Reason, fmt.Sprintf("reserve of %.1f MiB", tightBytes*reserve/100./(1<<20))) &&
					s.Store.TotalBytes == tightBytes && s.Store.FreeBytes > tightBytes-1<<20 && s.Store.FreeBytes <= tightBytes
			})
			q.checkUsable(0)
			q.limit(wideBytes)
			a.waitStatus("the model to be pulled", func(s agent.NodeStatus) bool {
				left := int64(wideBytes - weights*weightBytes)
				return s.Models[0].Tier == agent.TierDisk && s.Store.TotalBytes == wideBytes && s.Store.FreeBytes <= left && s.Store.FreeBytes > left-4<<20
			})
			a.stop()
			q.checkUsable(1)
		})
	}
}

// nodeAgent is the program as a Node's agent, in a machine.
type nodeAgent struct {
	*quota
	cluster *cluster.Cluster
	process *machine.Process
}

// startAgent starts a control plane, and in the machine an agent whose list has the model.
func startAgent(q *quota) *nodeAgent {
	q.Helper()
	a := &nodeAgent{quota: q, cluster: startCluster(q.T)}
	if _, err := a.cluster.AddNode(q.Context(), cluster.NodeSpec{Name: q.name, GPUs: 8}); err != nil {
		q.Fatal(err)
	}
	path, err := a.cluster.AgentKubeconfig(q.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: release + "-stoker", Node: q.name, Pod: "agent"})
	if err != nil {
		q.Fatal(err)
	}
	forwardAPIServer(q.T, path, filepath.Join(programs, q.name+".kubeconfig"))
	config := fmt.Sprintf(agentConfig, q.source, reserve)
	if err := os.WriteFile(filepath.Join(programs, q.name+".yaml"), []byte(config), 0o600); err != nil {
		q.Fatal(err)
	}
	a.process, err = q.machine.Start(q.Context(), "exec "+q.command(fmt.Sprintf("agent --config %[1]s/%[2]s.yaml --kubeconfig %[1]s/%[2]s.kubeconfig "+
		"--node-name %[2]s --gpus simulated:dgxh200 --listen 127.0.0.1:0", programDir, q.name)))
	if err != nil {
		q.Fatal(err)
	}
	q.Cleanup(a.process.Close)
	return a
}

// stop ends the agent as a kubelet does.
func (a *nodeAgent) stop() {
	a.Helper()
	if err := a.process.Signal(syscall.SIGTERM); err != nil {
		a.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(a.Context(), time.Minute)
	defer cancel()
	if result, err := a.process.Wait(ctx); err != nil || result.ExitCode != 0 {
		a.Errorf("the agent: exit code %d, %v: %s", result.ExitCode, err, result.Output)
	}
}

// waitStatus waits until the agent's status of its Node is such.
func (a *nodeAgent) waitStatus(what string, holds func(agent.NodeStatus) bool) {
	a.Helper()
	err := cluster.WaitFor(a.Context(), what, func(ctx context.Context) (bool, error) {
		node, err := a.cluster.Client().CoreV1().Nodes().Get(ctx, a.name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		text := node.Annotations[agent.StatusAnnotation]
		var status agent.NodeStatus
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return false, fmt.Errorf("read the status %q: %w", text, err)
		}
		if len(status.Models) != 1 || !holds(status) {
			return false, fmt.Errorf("its status is %s", text)
		}
		a.Logf("%s: %d of %d bytes are free; %s", what, status.Store.FreeBytes, status.Store.TotalBytes, status.Models[0].Reason)
		return true, nil
	})
	if err != nil {
		a.Fatalf("%v; the agent wrote: %s", err, a.process.Result().Output)
	}
}

// startCluster starts a control plane with the chart's account and rights.
func startCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := c.Client().CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	objs, err := charts.Render([]byte("models: []"), release, namespace)
	if err == nil {
		err = charts.Apply(t.Context(), c.RESTConfig(), objs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// forwardAPIServer has machines reach the API server of a kubeconfig, which listens on loopback only, and writes the
// kubeconfig with which they do.
func forwardAPIServer(t *testing.T, from, to string) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", machine.HostAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Clusters {
		server, err := url.Parse(c.Server)
		if err != nil {
			t.Fatal(err)
		}
		forward(t, listener, server.Host)
		c.Server, c.TLSServerName = "https://"+listener.Addr().String(), "localhost"
	}
	if err := clientcmd.WriteToFile(*config, to); err != nil {
		t.Fatal(err)
	}
}

// forward joins every connection to the listener with one to the address, until the test ends.
func forward(t *testing.T, listener net.Listener, address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			running.Go(func() { join(ctx, conn, address) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close() // what it returns says nothing about the test
		running.Wait()
	})
}

// join copies both ways until one side or the context ends.
func join(ctx context.Context, conn net.Conn, address string) {
	defer func() { _ = conn.Close() }()
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp4", address)
	if err != nil {
		return // the agent tries again
	}
	defer func() { _ = server.Close() }()
	var copying sync.WaitGroup
	ended := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{conn, server}, {server, conn}} {
		copying.Go(func() {
			_, _ = io.Copy(pair[0], pair[1]) // a broken connection is the agent's to notice
			ended <- struct{}{}
		})
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
	_, _ = conn.Close(), server.Close()
	copying.Wait()
}
