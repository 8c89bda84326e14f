//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/cluster"
)

// Options say how to start a node. All fields but Labels are needed.
type Options struct {
	// Name of the Node.
	Name string
	// Labels that the kubelet gives its Node.
	Labels map[string]string
	// Dir is an empty directory of the node's own, on a disk.
	Dir string
	// CGroup is the cgroup of all its pods; it exists.
	CGroup string
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
	options             Options
	containerd, kubelet *process
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
	if err := n.StartContainerd(ctx); err != nil {
		return err
	}
	for _, image := range n.options.Images {
		if err := n.ctr(ctx, "images", "import", "--no-unpack=false", image); err != nil {
			return err
		}
	}
	if err := n.StartKubelet(ctx); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

// StartContainerd starts containerd and waits until it answers.
func (n *Node) StartContainerd(ctx context.Context) error {
	var err error
	// Its shims are found beside it.
	path := n.options.Containerd + ":" + os.Getenv("PATH")
	n.containerd, err = startProcess("containerd", n.path("containerd.log"), "/usr/bin/env", "PATH="+path,
		filepath.Join(n.options.Containerd, "containerd"), "--config", n.path("containerd.toml"))
	if err != nil {
		return err
	}
	return n.wait(ctx, "containerd to answer", n.containerd, func(ctx context.Context) (bool, error) {
		err := n.ctr(ctx, "version")
		return err == nil, err
	})
}

// StartKubelet starts the kubelet; it does not wait for anything.
func (n *Node) StartKubelet(_ context.Context) error {
	kubeconfig, err := n.options.Cluster.NodeKubeconfig(n.options.Name)
	if err != nil {
		return err
	}
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(n.options.Labels)) {
		labels = append(labels, key+"="+n.options.Labels[key])
	}
	n.kubelet, err = startProcess("kubelet", n.path("kubelet.log"), n.options.Kubelet,
		"--config="+n.path("kubelet.yaml"), "--kubeconfig="+kubeconfig, "--root-dir="+n.path("kubelet"), "--cert-dir="+n.path("certificates"),
		"--hostname-override="+n.options.Name, "--node-ip="+HostAddress, "--node-labels="+strings.Join(labels, ","))
	return err
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
	args = append([]string{"--address", n.socket(), "--namespace", "k8s.io"}, args...)
	out, err := exec.CommandContext(ctx, filepath.Join(n.options.Containerd, "ctr"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
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
	for _, p := range []*process{n.kubelet, n.containerd} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}
