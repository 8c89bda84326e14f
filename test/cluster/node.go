package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gpuResource is what NVIDIA's device plugin calls a GPU.
const gpuResource corev1.ResourceName = "nvidia.com/gpu"

// NodeSpec says what a Node claims to be.
type NodeSpec struct {
	// Name is the Node's name and its hostname label.
	Name string
	// Labels are added to those that every kubelet sets (hostname, operating system, architecture).
	Labels map[string]string
	// Annotations of the Node.
	Annotations map[string]string
	// Taints that it is created with, beside the not-ready taint that comes and goes by itself.
	Taints []corev1.Taint
	// GPUs is how many nvidia.com/gpu it has. 0: it has no such resource at all.
	GPUs int
	// CPU and Memory are Kubernetes quantities. Empty: "32" and "256Gi".
	CPU, Memory string
	// Pods is how many pods it takes. 0: 110.
	Pods int
}

// AddNode creates a Node object without a kubelet behind it, says through its status what can be allocated and that it
// is ready, and returns it once the controller-manager has lifted the not-ready taint that every new Node carries:
// only from then on the scheduler uses it. A Node that exists already is an error.
func (c *Cluster) AddNode(ctx context.Context, spec NodeSpec) (*corev1.Node, error) {
	node, err := c.addNode(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("add node %s: %w", spec.Name, err)
	}
	return node, nil
}

func (c *Cluster) addNode(ctx context.Context, spec NodeSpec) (*corev1.Node, error) {
	capacity, err := spec.capacity()
	if err != nil {
		return nil, err
	}
	labels := map[string]string{
		corev1.LabelHostname:   spec.Name,
		corev1.LabelOSStable:   "linux",
		corev1.LabelArchStable: runtime.GOARCH,
	}
	maps.Copy(labels, spec.Labels)
	nodes := c.client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: spec.Name, Labels: labels, Annotations: spec.Annotations},
		Spec:       corev1.NodeSpec{Taints: spec.Taints},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	// Controllers write to a new Node as well, so that an update from here may find it changed.
	err = WaitFor(ctx, "its status to be written", func(ctx context.Context) (bool, error) {
		now := metav1.Now()
		node.Status.Capacity = capacity
		node.Status.Allocatable = capacity
		node.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "NoKubelet",
			Message:           "this Node is an object for tests; nothing runs on it",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}}
		updated, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		if err == nil {
			node = updated
			return true, nil
		}
		if fresh, getErr := nodes.Get(ctx, spec.Name, metav1.GetOptions{}); getErr == nil {
			node = fresh
		}
		return false, err
	})
	if err != nil {
		return nil, err
	}
	err = WaitFor(ctx, "the not-ready taint to be lifted", func(ctx context.Context) (bool, error) {
		fresh, err := nodes.Get(ctx, spec.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		node = fresh
		return !slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool {
			return taint.Key == corev1.TaintNodeNotReady
		}), nil
	})
	if err != nil {
		return nil, err
	}
	return node, nil
}

// capacity is the spec in the words of a Node's status.
func (s NodeSpec) capacity() (corev1.ResourceList, error) {
	var errs []error
	quantity := func(field, value, byDefault string) resource.Quantity {
		if value == "" {
			value = byDefault
		}
		parsed, err := resource.ParseQuantity(value)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: %w", field, value, err))
		}
		return parsed
	}
	pods := s.Pods
	if pods == 0 {
		pods = 110
	}
	list := corev1.ResourceList{
		corev1.ResourceCPU:    quantity("CPU", s.CPU, "32"),
		corev1.ResourceMemory: quantity("memory", s.Memory, "256Gi"),
		corev1.ResourcePods:   quantity("pods", strconv.Itoa(pods), ""),
	}
	if s.GPUs > 0 {
		list[gpuResource] = quantity("GPUs", strconv.Itoa(s.GPUs), "")
	}
	return list, errors.Join(errs...)
}
