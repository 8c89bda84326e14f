package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/gpu/sizing"
	"github.com/stoker-project/stoker/test/cluster"
)

// imageVersion is a release by whose rules sums are made: what replicas of others took adds no yes.
const imageVersion = sizing.DefaultVLLMVersion + ".0"

// podNetwork stands for the network of pods: it leads each address to a server on loopback, and no other anywhere.
type podNetwork struct {
	mu      sync.Mutex
	servers map[string]string
	asked   map[string]int
}

func (n *podNetwork) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	server, ok := n.servers[address]
	n.asked[address]++
	n.mu.Unlock()
	if !ok {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, network, server)
}

// replicaPage is the public page of vLLM 0.32 with a cache that the budget left: so many blocks of 128 tokens, of which
// a request of 2048 takes 16.
func replicaPage(tb testing.TB, share string, blocks int) string {
	tb.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "agent", "measure", "testdata", "metrics-0.32.0-load.txt"))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.NewReplacer(
		`kv_cache_memory_bytes="1073741824"`, `kv_cache_memory_bytes="None"`,
		`gpu_memory_utilization="0.92"`, fmt.Sprintf(`gpu_memory_utilization=%q`, share),
		`num_gpu_blocks="195"`, fmt.Sprintf(`num_gpu_blocks="%d"`, blocks),
		`kv_cache_size_tokens="24960"`, fmt.Sprintf(`kv_cache_size_tokens="%d"`, blocks*128),
		`kv_cache_max_concurrency="12.1875"`, fmt.Sprintf(`kv_cache_max_concurrency="%s"`, strconv.FormatFloat(float64(blocks)/16, 'f', -1, 64)),
	).Replace(string(page))
}

// replica makes a pod with one GPU that serves a model and answers with a page, as a kubelet would show it.
func (b *bench) replica(n *podNetwork, where, model, ip, page string) {
	b.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(page)) }))
	b.Cleanup(s.Close)
	n.mu.Lock()
	n.servers[ip+":8080"] = s.Listener.Addr().String()
	n.mu.Unlock()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "serves-" + model + "-" + b.node, Labels: map[string]string{agent.ModelLabel: model}},
		Spec: corev1.PodSpec{NodeName: b.node, Containers: []corev1.Container{{
			Name: "vllm", Image: "vllm/vllm-openai:v" + imageVersion, Args: []string{"/stoker/model", "--tensor-parallel-size=1"},
			Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(1, resource.DecimalSI)}},
		}}},
	}
	pod, err := b.client.CoreV1().Pods(where).Create(b.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	now := metav1.NewTime(time.Now().Add(time.Second)) // the API keeps whole seconds
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now},
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
	}}
	if _, err := b.client.CoreV1().Pods(where).UpdateStatus(b.Context(), pod, metav1.UpdateOptions{}); err != nil {
		b.Fatal(err)
	}
}

// Replicas on the node are asked what they took. One that nobody trusts takes a yes away and adds none, one of a trusted
// namespace adds it; that survives the agent.
func testMeasures(t *testing.T, c *cluster.Cluster) {
	b := newBench(t, c)
	const others = "measured-others"
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: others}}
	if _, err := b.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	network := &podNetwork{servers: map[string]string{}, asked: map[string]int{}}
	b.dial = network.dial
	tight, wide := b.model("close", 1), b.model("wide", 2)
	list := func(settings string) {
		b.config(fmt.Sprintf("models: [{name: close, source: '%s', serving: {gpuMemoryUtilization: 0.005}}, {name: wide, source: '%s', serving: {gpuMemoryUtilization: 0.5}}]", tight, wide) +
			intervals + "measure: " + settings)
	}
	list("{enabled: true}")
	b.start()
	b.waitLabel(agent.FitsPrefix+"close", "0")
	b.waitLabel(agent.FitsPrefix+"wide", "8")
	if m := b.modelStatus("close"); m.Tight != 8 || m.Measured != nil {
		t.Errorf("before anything was measured, the annotation says %+v", m)
	}

	// A block of 128 tokens takes 32 KiB. Of the 128.6 GiB that are 92% of an H200, so many leave more than 100, and of the
	// 0.7 GiB that are 0.5%, so many leave 0.37, about as little as a small model can take.
	b.replica(network, others, "wide", "10.77.0.2", replicaPage(t, "0.92", 900_000))
	b.waitLabel(agent.FitsPrefix+"wide", "0")
	if m := b.modelStatus("wide"); m.Tight != 7 || m.Measured == nil || m.Measured.Trusted || m.Measured.BesideBytes < 100<<30 {
		t.Errorf("after one of an untrusted namespace was measured, the annotation says %+v, %+v", m, m.Measured)
	}
	b.replica(network, namespace, "close", "10.77.0.1", replicaPage(t, "0.005", 10_700))
	b.wait("the replica to be measured", func(*corev1.Node) bool { return b.modelStatus("close").Measured != nil })
	if m := b.modelStatus("close"); m.Measured.Trusted || m.Measured.BesideBytes < 300<<20 || m.Measured.BesideBytes > 500<<20 || m.Tight != 6 || b.labels()[agent.FitsPrefix+"close"] != "0" {
		t.Errorf("the annotation says %+v, %+v", m, m.Measured)
	}

	list("{enabled: true, trustedNamespaces: [" + namespace + "]}")
	b.waitLabel(agent.FitsPrefix+"close", "6")
	if m := b.modelStatus("close"); !m.Measured.Trusted || m.Tight != 0 {
		t.Errorf("the annotation says %+v, %+v", m, m.Measured)
	}
	b.waitLabel(agent.FitsPrefix+"wide", "0")

	// What was measured is in the store, and an agent that cannot ask goes by it from its first word on.
	b.wait("it to be written down", func(*corev1.Node) bool { return len(b.measured("close")) == 1 && b.measured("close")[0].Trusted })
	if r := b.measured("close")[0]; r.Namespace != namespace || r.VLLMVersion != imageVersion || r.MaxModelLen != 2048 || r.TensorParallel != 1 || r.GPUMemoryUtilization != 0.005 {
		t.Errorf("the store has %+v", r)
	}
	if r := b.measured("wide"); len(r) != 1 || r[0].Trusted || r[0].Namespace != "" {
		t.Errorf("the store has %+v", r)
	}
	b.stop()
	network.mu.Lock()
	clear(network.servers)
	asked := maps.Clone(network.asked)
	network.mu.Unlock()
	seen := b.watch()
	b.start()
	b.waitBeats(3 * time.Second)
	seen.always(agent.FitsPrefix+"close", "6")
	seen.always(agent.FitsPrefix+"wide", "0")
	// Switched off, nothing is left of it.
	list("{enabled: false}")
	b.waitLabel(agent.FitsPrefix+"close", "0")
	b.waitLabel(agent.FitsPrefix+"wide", "6")
	b.wait("it to be forgotten", func(*corev1.Node) bool { return len(b.measured("close")) == 0 })
	if got := slices.Sorted(maps.Keys(asked)); !slices.Equal(got, []string{"10.77.0.1:8080", "10.77.0.2:8080"}) || asked["10.77.0.1:8080"] != 2 || asked["10.77.0.2:8080"] != 1 {
		t.Errorf("pods were asked as %v", asked)
	}
}

// measured is what the store has of a model.
func (b *bench) measured(model string) []measure.Record {
	b.Helper()
	data, err := os.ReadFile(filepath.Join(b.storePath(), "agent", measure.File))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		b.Fatal(err)
	}
	var f struct{ Records []measure.Record }
	if err := json.Unmarshal(data, &f); err != nil {
		b.Fatal(err)
	}
	return slices.DeleteFunc(f.Records, func(r measure.Record) bool { return r.Model != model })
}
