package charts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/cluster"
)

// The rendered arguments, configuration and RBAC together carry an agent from a
// model list to a label: the real binary runs them, as the DaemonSet's pod and
// with no more rights than that pod has.
func TestRenderedAgentLabelsItsNode(t *testing.T) {
	source := filepath.Join(t.TempDir(), "Tiny")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"config.json": "{}", "tokenizer.json": "{}"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// No reserve: how full this machine's disk is, is not what is tested.
	values := fmt.Sprintf("models: [{source: 'file://%s'}]\ngpus: simulated:dgxh200\nport: 1\nagent: {store: {reserve: '0%%'}}\n", source)
	objs, err := Render([]byte(values), "rel", releaseNamespace)
	if err != nil {
		t.Fatal(err)
	}

	c := startCluster(t)
	createNamespaces(t, c.Client(), "privileged", releaseNamespace)
	if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	node := cluster.NodeSpec{Name: "gpu-node", Labels: map[string]string{"nvidia.com/gpu.present": "true"}, GPUs: 8}
	if _, err := c.AddNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	pod := agentPodOn(t, c, node.Name)
	config, err := AgentConfig(objs)
	if err != nil {
		t.Fatal(err)
	}
	log := startAgent(t, c, pod, config)

	want := map[string]string{"warm.stoker.dev/tiny": "disk", "gpu.stoker.dev/idle": "8"}
	err = cluster.WaitFor(t.Context(), fmt.Sprintf("the labels %v", want), func(ctx context.Context) (bool, error) {
		n, err := c.Client().CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for key, value := range want {
			if n.Labels[key] != value {
				return false, fmt.Errorf("labels are %v, the annotation is %s", n.Labels, n.Annotations["stoker.dev/status"])
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log())
	}
	err = cluster.WaitFor(t.Context(), "an event ModelWarm about the node", func(ctx context.Context) (bool, error) {
		events, err := c.Client().EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, event := range events.Items {
			if event.Reason == "ModelWarm" && event.Regarding.Name == node.Name {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log())
	}
	if text := log(); strings.Contains(text, "forbidden") {
		t.Errorf("the agent asked for what the chart's RBAC does not give:\n%s", text)
	}
}

// agentPodOn waits for the DaemonSet's pod that the real scheduler bound to the
// node.
func agentPodOn(t *testing.T, c *cluster.Cluster, node string) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	err := cluster.WaitFor(t.Context(), "an agent's pod on "+node, func(ctx context.Context) (bool, error) {
		pods, err := c.Client().CoreV1().Pods(releaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=stoker"})
		if err != nil {
			return false, err
		}
		for i := range pods.Items {
			if pods.Items[i].Spec.NodeName == node {
				pod = &pods.Items[i]
			}
		}
		return pod != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// startAgent runs what the pod's container would run, with the paths that it
// would see moved into temporary folders, and ends it with the test as a
// kubelet would. The function that it gives reads the agent's log.
func startAgent(t *testing.T, c *cluster.Cluster, pod *corev1.Pod, config []byte) func() string {
	t.Helper()
	kubeconfig, err := c.AgentKubeconfig(t.Context(), cluster.AgentPod{
		Namespace: pod.Namespace, ServiceAccount: pod.Spec.ServiceAccountName, Node: pod.Spec.NodeName, Pod: pod.Name,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	logPath := filepath.Join(dir, "log")
	logFile, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := logFile.Close(); err != nil {
			t.Error(err)
		}
	})
	inside := strings.NewReplacer(
		"/etc/stoker/", dir+"/",
		"--store=/models", "--store="+filepath.Join(dir, "models"),
		"$(NODE_NAME)", pod.Spec.NodeName,
		"--listen=:1", "--listen=127.0.0.1:0",
	)
	var args []string
	for _, arg := range pod.Spec.Containers[0].Args {
		args = append(args, inside.Replace(arg))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, buildBinary(t), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	log := func() string {
		content, err := os.ReadFile(logPath)
		if err != nil {
			t.Error(err)
		}
		return string(bytes.TrimSpace(content))
	}
	t.Cleanup(func() {
		cancel()
		// Only a clean end on SIGTERM counts; CommandContext reports the context's end as an error of its own.
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("the agent ended with %v:\n%s", err, log())
		}
	})
	return log
}
