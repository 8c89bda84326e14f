package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/stoker-project/stoker/agent/kubeclient"
	"github.com/stoker-project/stoker/fetcher"
)

// gpuResource is what NVIDIA's device plugin calls a GPU.
const gpuResource = "nvidia.com/gpu"

// migStrategyLabel is how GPU feature discovery says what the device plugin does
// with MIG devices: single or mixed.
const migStrategyLabel = "nvidia.com/mig.strategy"

// gpuVendor begins every name that NVIDIA's device plugin gives to a resource:
// nvidia.com/mig-1g.5gb, nvidia.com/gpu.shared, or what it was told to call it.
const gpuVendor = "nvidia.com/"

// pod is what the agent keeps of a pod on this node.
type pod struct {
	UID    string
	Phase  corev1.PodPhase
	Labels map[string]string
	// Adapters are names in the pod's [AdaptersAnnotation]: [adaptersOf].
	Adapters []string
	// GPUs is how many of gpuResource the pod was given.
	GPUs int
	// GPUParts says that it was given something else of a GPU (a MIG device, a
	// share), or a resource claim, which may be a GPU.
	GPUParts bool
	// Memory is what the scheduler counts for the pod, in bytes.
	Memory int64
	// Claims are the names of the volume claims that it mounts.
	Claims []string
	// Created is when the API server took it: it cannot have pinned a revision
	// that was published before then and has been superseded since.
	Created time.Time
	// Replica is what is needed to measure it; nil: it cannot be a replica of vLLM
	// that is ready.
	Replica *replicaPod
}

// models are the entries of the list that the pod reads, each once: the model
// that it serves, and its adapters. Without a model there are none.
func (p pod) models() []string {
	model := p.Labels[ModelLabel]
	if model == "" {
		return nil
	}
	names := []string{model}
	for _, name := range p.Adapters {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// adaptersOf are the first adapters that a pod names, less what no model can be
// called.
func adaptersOf(p *corev1.Pod) []string {
	var names []string
	for _, name := range Adapters(p.Annotations[AdaptersAnnotation]) {
		if fetcher.CheckName(name) == nil && len(names) < MaxAdapters {
			names = append(names, name)
		}
	}
	return names
}

// over says whether the pod has ended and holds nothing any more.
func (p pod) over() bool {
	return p.Phase == corev1.PodSucceeded || p.Phase == corev1.PodFailed
}

// podWatch keeps the pods of one node.
type podWatch struct {
	index      podIndex
	controller cache.Controller
	logger     *slog.Logger
}

// fleetWatch keeps the pods of all nodes that may read the store.
type fleetWatch interface {
	run(ctx context.Context)
	pods() (pods []pod, known bool)
}

// newPodWatch watches the pods of a node; of all, if node is empty: then it keeps
// of those that cannot read the store no more than that they are there.
func newPodWatch(pods *kubeclient.Pods, node string, wake func(), logger *slog.Logger) *podWatch {
	w := &podWatch{logger: logger}
	onNode, keep := "spec.nodeName="+node, keepLittle
	if node == "" {
		onNode, keep = "", keepReaders
		w.index.keep = readsStore
	}
	changed := func(kept bool) {
		if kept {
			wake()
		}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = onNode
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = onNode
			return pods.Watch(ctx, o)
		},
	}
	_, w.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw,
		ObjectType:    &corev1.Pod{},
		Transform:     keep,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { changed(w.index.put(o)) },
			UpdateFunc: func(_, o any) { changed(w.index.put(o)) },
			DeleteFunc: func(o any) { changed(w.index.remove(o)) },
		},
	})
	return w
}

// run keeps the cache until ctx ends.
func (w *podWatch) run(ctx context.Context) { w.controller.RunWithContext(ctx) }

// pods returns the pods of this node in a stable order, or of all nodes those that may
// read the store, and whether they are known: before the first complete list they are not.
func (w *podWatch) pods() ([]pod, bool) {
	if !w.controller.HasSynced() {
		return nil, false
	}
	return w.index.all(), true
}

// readsStore says whether a pod names a model or mounts the store's claim.
func readsStore(p *corev1.Pod) bool {
	if p.Labels[ModelLabel] != "" {
		return true
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claimName {
			return true
		}
	}
	return false
}

// keepReaders is keepLittle for pods that may read the store, and drops the rest of
// others.
func keepReaders(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok || readsStore(p) {
		return keepLittle(o)
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
		Status:     corev1.PodStatus{Phase: corev1.PodSucceeded},
	}, nil
}

// keepLittle drops everything of a pod that the agent does not need, so that
// the cache stays small and holds nothing of the pods' environment.
func keepLittle(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		if _, gone := o.(cache.DeletedFinalStateUnknown); gone {
			return o, nil
		}
		return nil, fmt.Errorf("watch pods: got a %T", o)
	}
	small := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			Labels: p.Labels, CreationTimestamp: p.CreationTimestamp,
		},
		Status: corev1.PodStatus{Phase: p.Status.Phase},
	}
	if adapters := adaptersOf(p); len(adapters) > 0 {
		small.Annotations = map[string]string{AdaptersAnnotation: strings.Join(adapters, ",")}
	}
	keep := func(containers []corev1.Container) []corev1.Container {
		var out []corev1.Container
		for _, c := range containers {
			if asks := keptRequests(c); len(asks) > 0 {
				kept := corev1.Container{RestartPolicy: c.RestartPolicy, Resources: corev1.ResourceRequirements{Requests: asks}}
				if isReplica(p, c) {
					keepReplica(c, &kept)
				}
				out = append(out, kept)
			}
		}
		return out
	}
	if p.Labels[ModelLabel] != "" {
		small.Spec.HostNetwork, small.Status = p.Spec.HostNetwork, keptStatus(p.Status)
	}
	if r := p.Spec.Resources; r != nil {
		small.Spec.Resources = &corev1.ResourceRequirements{Requests: onlyMemory(r.Requests)}
	}
	small.Spec.Overhead = onlyMemory(p.Spec.Overhead)
	small.Spec.ResourceClaims = p.Spec.ResourceClaims
	small.Spec.Containers = keep(p.Spec.Containers)
	small.Spec.InitContainers = keep(p.Spec.InitContainers)
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			small.Spec.Volumes = append(small.Spec.Volumes, corev1.Volume{
				VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: v.PersistentVolumeClaim},
			})
		}
	}
	return small, nil
}
