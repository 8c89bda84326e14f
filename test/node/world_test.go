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

// world is a control plane, two real nodes and the Hub's stand-in.
type world struct {
	testing.TB
	cluster *cluster.Cluster
	client  kubernetes.Interface
	// first has the label pool=large and its store on this machine's disk, second pool=small and its store on a disk of
	// its own.
	first, second *machine
	hub           *fetchertest.Hub
	helm          string
}

// newWorld starts everything and ends it with the test. The second node's disk has that many bytes.
func newWorld(tb testing.TB, disk int64) *world {
	tb.Helper()
	w := &world{TB: tb, helm: need(tb, helmEnv)}
	err := node.SetUpLoopback(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if w.cluster, err = cluster.Start(tb.Context(), cluster.Options{Dir: filepath.Join(box.Dir, "cluster"), Log: os.Stderr}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.cluster.Stop(); err != nil {
			tb.Error(err)
		}
	})
	w.client = w.cluster.Client()
	api, err := url.Parse(w.cluster.RESTConfig().Host)
	if err != nil {
		tb.Fatal(err)
	}
	network, err := node.StartNetwork(tb.Context(), api.Host)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := network.Stop(); err != nil {
			tb.Error(err)
		}
	})
	w.startHub()
	w.showOnFailure(tb)
	w.first = w.startMachine(1, "large", makeDir(tb, filepath.Join(box.Dir, "disk-1")))
	w.second = w.startMachine(2, "small", newDisk(tb, filepath.Join(box.Dir, "disk-2"), disk))
	w.namespace("serving", nil)
	w.namespace("strict", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	return w
}

// need is an environment variable that must be set.
func need(tb testing.TB, name string) string {
	tb.Helper()
	value := os.Getenv(name)
	if value == "" {
		tb.Fatalf("%s is not set: run the tests by make e2e", name)
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

// model puts a generated model of about that many bytes on the Hub and returns its files.
func (w *world) model(id string, seed uint64, bytes int64) fetchertest.Tree {
	w.Helper()
	spec := fetchertest.SpecOfSize(seed, bytes, 3)
	spec.Bare = true // every file is one that is pulled
	tree, err := fetchertest.GenerateModel(spec)
	if err != nil {
		w.Fatal(err)
	}
	w.push(id, tree)
	return tree
}

// push puts a model on the Hub and returns its commit.
func (w *world) push(id string, tree fetchertest.Tree) string {
	w.Helper()
	w.hub.AddRepo(id, fetchertest.RepoOptions{})
	commit, err := w.hub.Push(w.Context(), id, "main", tree)
	if err != nil {
		w.Fatal(err)
	}
	return commit
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
func wait(tb testing.TB, what string, cond func(context.Context) (bool, error)) {
	tb.Helper()
	if err := cluster.WaitFor(tb.Context(), what, cond); err != nil {
		tb.Fatal(err)
	}
}
