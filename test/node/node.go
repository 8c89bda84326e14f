//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/cluster"
)

// Options say how to start a node. All fields but Labels and Mounts are needed.
type Options struct {
	// Name of the Node.
	Name string
	// Labels that the kubelet gives its Node.
	Labels map[string]string
	// Dir is an empty directory of the node's own, on a disk.
	Dir string
	// CGroup is the cgroup of all its pods; it exists.
	CGroup string
	// Mounts are directories that the node has at other paths: the path, by which pods ask for it, and the directory that
	// is there, such as a disk.
	Mounts map[string]string
	// Cluster is the control plane that it joins.
	Cluster *cluster.Cluster
	// Containerd is the directory of containerd, containerd-shim-runc-v2 and ctr; Kubelet is the kubelet's path.
	Containerd, Kubelet string
	// Images are files to import (docker-archive or OCI); PauseImage is the name of the one among them that holds a pod's
	// namespaces.
	Images     []string
	PauseImage string
	// PodSubnet is the pods' network, as in 10.0.2.0/24, and Bridge the interface that it hangs on.
	PodSubnet, Bridge string
	// Port of the kubelet's own API.
	Port int
}

// Node is a running node.
type Node struct {
	options Options
	// memoryFloor is how much memory must be free, as a quantity, lest the kubelet evict pods; empty: what it insists on.
	memoryFloor                 string
	keeper, containerd, kubelet *process
}

// Start starts containerd, imports the images, starts the kubelet and returns when its Node is ready. The network must
// have been started.
func Start(ctx context.Context, options Options) (*Node, error) {
	n := &Node{options: options}
	if err := n.start(ctx); err != nil {
		// What Stop says is about processes that the error already tells of.
		_ = n.Stop()
		return nil, fmt.Errorf("start node %s: %w", options.Name, err)
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	if err := n.writeConfigs(); err != nil {
		return err
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	for _, image := range n.options.Images {
		if err := n.ctr(ctx, "images", "import", "--no-unpack=false", image); err != nil {
			return err
		}
	}
	if err := n.startKubelet(ctx); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

// Boot starts a node again that was halted, and returns when its Node is ready.
func (n *Node) Boot(ctx context.Context) error {
	if err := n.startContainerd(ctx); err != nil {
		return fmt.Errorf("boot node %s: %w", n.options.Name, err)
	}
	if err := n.startKubelet(ctx); err != nil {
		return fmt.Errorf("boot node %s: %w", n.options.Name, err)
	}
	return n.WaitReady(ctx)
}

// startContainerd starts containerd in a new mount namespace and waits until it answers.
func (n *Node) startContainerd(ctx context.Context) error {
	err := n.startNamespace(ctx)
	if err != nil {
		return err
	}
	// Its shims are found beside it.
	path := n.options.Containerd + ":" + os.Getenv("PATH")
	n.containerd, err = startProcess("containerd", n.path("containerd.log"), n.command(context.WithoutCancel(ctx), "/usr/bin/env", "PATH="+path,
		filepath.Join(n.options.Containerd, "containerd"), "--config", n.path("containerd.toml")))
	if err != nil {
		return err
	}
	return n.wait(ctx, "containerd to answer", n.containerd, func(ctx context.Context) (bool, error) {
		err := n.ctr(ctx, "version")
		return err == nil, err
	})
}

// startKubelet starts the kubelet; it does not wait for anything.
func (n *Node) startKubelet(ctx context.Context) error {
	kubeconfig, err := n.options.Cluster.NodeKubeconfig(n.options.Name)
	if err != nil {
		return err
	}
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(n.options.Labels)) {
		labels = append(labels, key+"="+n.options.Labels[key])
	}
	n.kubelet, err = startProcess("kubelet", n.path("kubelet.log"), n.command(context.WithoutCancel(ctx), n.options.Kubelet,
		"--config="+n.path("kubelet.yaml"), "--kubeconfig="+kubeconfig, "--root-dir="+kubeletDir, "--cert-dir="+n.path("certificates"),
		"--hostname-override="+n.options.Name, "--node-ip="+HostAddress, "--node-labels="+strings.Join(labels, ",")))
	return err
}

// SetMemoryFloor restarts the kubelet with another threshold of free memory, as a quantity, below which it evicts pods;
// empty: the usual one. Above what the machine has, the node is under pressure from then on.
func (n *Node) SetMemoryFloor(ctx context.Context, floor string) error {
	n.memoryFloor = floor
	if err := n.writeConfigs(); err != nil {
		return err
	}
	if err := n.kubelet.stop(); err != nil {
		return err
	}
	return n.startKubelet(ctx)
}

// WaitReady waits until the Node is ready and nothing keeps pods from it.
func (n *Node) WaitReady(ctx context.Context) error {
	return n.wait(ctx, "node "+n.options.Name+" to be ready", n.kubelet, func(ctx context.Context) (bool, error) {
		node, err := n.options.Cluster.Client().CoreV1().Nodes().Get(ctx, n.options.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return false, errors.New(condition.Message)
			}
		}
		tainted := slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == corev1.TaintNodeNotReady })
		return !tainted && len(node.Status.Conditions) > 0, nil
	})
}

// wait waits for a condition, and not on when the process it depends on has ended.
func (n *Node) wait(ctx context.Context, what string, p *process, cond func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := cluster.WaitFor(ctx, what, func(ctx context.Context) (bool, error) {
		if err := p.ended(); err != nil {
			cancel(err)
			return false, err
		}
		return cond(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(p.log, 20))
	}
	return nil
}

// ctr runs containerd's own client in the namespace of the kubelet's images.
func (n *Node) ctr(ctx context.Context, args ...string) error {
	return n.run(ctx, filepath.Join(n.options.Containerd, "ctr"), append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...)
}

// TagImage gives an imported image another name.
func (n *Node) TagImage(ctx context.Context, name, other string) error {
	return n.ctr(ctx, "images", "tag", "--force", name, other)
}

// PodLogs is the directory of the containers' output: NAMESPACE_POD_UID/CONTAINER/N.log.
func (n *Node) PodLogs() string { return n.path("pod-logs") }

// Stop stops the kubelet and containerd. What runs in containers ends with the sandbox.
func (n *Node) Stop() error {
	var errs []error
	for _, p := range []*process{n.kubelet, n.containerd, n.keeper} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}
