//go:build e2e && linux

package node_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/node"
)

// What the Makefile built, by environment variable: directories of programs, programs, and files of images.
const (
	containerdEnv = "STOKER_E2E_CONTAINERD"
	kubeletEnv    = "STOKER_E2E_KUBELET"
	helmEnv       = "STOKER_E2E_HELM"
	imageEnv      = "STOKER_E2E_IMAGE"
	toolEnv       = "STOKER_E2E_TOOL"
)

// Names of images, as they stand in those files.
const (
	image     = "localhost/stoker:e2e"
	toolImage = "localhost/tool:e2e"
)

// world is a control plane, one real node and the Hub's stand-in.
type world struct {
	*testing.T
	cluster *cluster.Cluster
	client  kubernetes.Interface
	node    *node.Node
	hub     *fetchertest.Hub
	helm    string
}

const nodeName = "node-1"

// newWorld starts everything and ends it with the test.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, helm: need(t, helmEnv)}
	err := node.SetUpLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if w.cluster, err = cluster.Start(t.Context(), cluster.Options{Dir: filepath.Join(box.Dir, "cluster"), Log: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	w.client = w.cluster.Client()
	api, err := url.Parse(w.cluster.RESTConfig().Host)
	if err != nil {
		t.Fatal(err)
	}
	network, err := node.StartNetwork(t.Context(), api.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Stop(); err != nil {
			t.Error(err)
		}
	})
	w.startHub()
	w.startNode()
	return w
}

// need is an environment variable that must be set.
func need(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run the tests by make e2e", name)
	}
	return value
}

func (w *world) startHub() {
	w.Helper()
	w.hub = fetchertest.NewHub(fetchertest.HubOptions{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	if err := w.hub.Listen(ctx, node.HostAddress+":0", node.HostAddress+":0"); err != nil {
		cancel()
		w.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.hub.Serve(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			w.Error(err)
		}
	})
}

func (w *world) startNode() {
	w.Helper()
	dir := filepath.Join(box.Dir, nodeName)
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	var err error
	w.node, err = node.Start(w.Context(), node.Options{
		Name: nodeName, Dir: dir, CGroup: box.CGroup, Cluster: w.cluster,
		Containerd: need(w.T, containerdEnv), Kubelet: need(w.T, kubeletEnv),
		Labels: map[string]string{"nvidia.com/gpu.present": "true"},
		Images: []string{need(w.T, imageEnv), need(w.T, toolEnv)}, PauseImage: toolImage,
		PodSubnet: "10.0.2.0/24", Bridge: "stoker0", Port: 10250,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := w.node.Stop(); err != nil {
			w.Error(err)
		}
	})
}

// model puts a generated model of about that many bytes on the Hub and returns its files.
func (w *world) model(id string, seed uint64, bytes int64) fetchertest.Tree {
	w.Helper()
	spec := fetchertest.SpecOfSize(seed, bytes, 3)
	spec.Bare = true // every file is one that is pulled
	tree, err := fetchertest.GenerateModel(spec)
	if err != nil {
		w.Fatal(err)
	}
	w.hub.AddRepo(id, fetchertest.RepoOptions{})
	if _, err := w.hub.Push(w.Context(), id, "main", tree); err != nil {
		w.Fatal(err)
	}
	return tree
}

func (w *world) namespace(name string, labels map[string]string) {
	w.Helper()
	_, err := w.client.CoreV1().Namespaces().Create(w.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
}

// wait waits for a condition; the test ends if it does not come.
func (w *world) wait(t *testing.T, what string, cond func(context.Context) (bool, error)) {
	t.Helper()
	if err := cluster.WaitFor(t.Context(), what, cond); err != nil {
		t.Fatal(err)
	}
}

// waitLabel waits until the Node's label has a value; empty: until it is absent.
func (w *world) waitLabel(t *testing.T, key, want string) {
	t.Helper()
	w.wait(t, "label "+key+"="+want, func(ctx context.Context) (bool, error) {
		n, err := w.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return n.Labels[key] == want, nil
	})
}
