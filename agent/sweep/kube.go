package sweep

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/stoker-project/stoker/agent/kubeclient"
)

// fieldManager is who removes keys.
const fieldManager = "stoker-sweeper"

// cluster is what a Sweeper needs of Kubernetes. The real one is kube; tests of
// timing and pace put something in memory in its place.
type cluster interface {
	// seen is what the watches have brought; known is false before each has
	// brought a whole list.
	seen() (nodes []node, pods []pod, known bool)
	// reach asks the API server for something small; an answer is contact.
	reach(ctx context.Context) error
	// look reads one Node and the agents' pods on it, not from a cache; the Node
	// first.
	look(ctx context.Context, name string) (node, []pod, error)
	// withdraw removes the node's keys if the Node has not changed since n was
	// read; else the error is a conflict.
	withdraw(ctx context.Context, n node) error
	event(ctx context.Context, e event) error
	// run watches until ctx ends.
	run(ctx context.Context)
}

// nodesAPI reads and patches the metadata of Nodes: of a Node's status, which is
// its larger part, nothing is asked for.
type nodesAPI struct{ nodes metadata.ResourceInterface }

func newNodesAPI(cfg *rest.Config) (nodesAPI, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nodesAPI{}, fmt.Errorf("make a client for nodes: %w", err)
	}
	return nodesAPI{nodes: client.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))}, nil
}

func (a nodesAPI) get(ctx context.Context, name string) (node, error) {
	m, err := a.nodes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return node{}, explain("read node "+name, err)
	}
	return nodeOf(m), nil
}

// find reads a Node with the right to list alone.
func (a nodesAPI) find(ctx context.Context, name string) (node, error) {
	list, err := a.nodes.List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		return node{}, explain("read node "+name, err)
	}
	if len(list.Items) == 0 {
		return node{}, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	return nodeOf(&list.Items[0]), nil
}

// remove takes the keys of n away and returns what the Node says then.
func (a nodesAPI) remove(ctx context.Context, n node, pinned bool) (node, error) {
	patch, err := n.removal(pinned)
	if err != nil {
		return node{}, fmt.Errorf("remove keys of node %s: %w", n.Name, err)
	}
	m, err := a.nodes.Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return node{}, explain("remove keys of node "+n.Name, err)
	}
	return nodeOf(m), nil
}

// explain says what an API error asks of the operator.
func explain(op string, err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%s: %w; let this account do so", op, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// kube speaks to the API server.
type kube struct {
	api      nodesAPI
	pods     *kubeclient.Pods
	events   *kubeclient.Events
	volumes  *kubeclient.PersistentVolumes
	selector string

	nodeStore, podStore cache.Store
	watches             []cache.Controller
}

func newKube(cfg *rest.Config, namespace, selector string) (*kube, error) {
	api, err := newNodesAPI(cfg)
	if err != nil {
		return nil, err
	}
	client, err := kubeclient.New(cfg)
	if err != nil {
		return nil, err
	}
	k := &kube{api: api, pods: client.Pods(namespace), events: client.Events(eventNamespace), volumes: client.PersistentVolumes(), selector: selector}
	var nodes, pods cache.Controller
	k.nodeStore, nodes = newWatch(&metav1.PartialObjectMetadata{}, api.nodes.List, api.nodes.Watch, nodeItems, littleNode)
	k.podStore, pods = newWatch(&corev1.Pod{}, func(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
		o.LabelSelector = selector
		return k.pods.List(ctx, o)
	}, func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.LabelSelector = selector
		return k.pods.Watch(ctx, o)
	}, podItems, littlePod)
	k.watches = []cache.Controller{nodes, pods}
	return k, nil
}

func (k *kube) seen() (nodes []node, pods []pod, known bool) {
	for _, w := range k.watches {
		if !w.HasSynced() {
			return nil, nil, false
		}
	}
	for _, o := range k.nodeStore.List() {
		if m, ok := o.(*metav1.PartialObjectMetadata); ok {
			nodes = append(nodes, nodeOf(m))
		}
	}
	for _, o := range k.podStore.List() {
		if p, ok := o.(*corev1.Pod); ok {
			pods = append(pods, podOf(p))
		}
	}
	return nodes, pods, true
}

// reach lists at most one pod. Without a resource version the answer is as new
// as etcd's, so it proves that both are there.
func (k *kube) reach(ctx context.Context) error {
	_, err := k.pods.List(ctx, metav1.ListOptions{LabelSelector: k.selector, Limit: 1})
	if err != nil {
		return explain("reach the API server", err)
	}
	return nil
}

func (k *kube) look(ctx context.Context, name string) (node, []pod, error) {
	n, err := k.api.get(ctx, name)
	if err != nil {
		return node{}, nil, err
	}
	list, err := k.pods.List(ctx, metav1.ListOptions{
		LabelSelector: k.selector, FieldSelector: fields.OneTermEqualSelector("spec.nodeName", name).String(),
	})
	if err != nil {
		return node{}, nil, explain("list the agents' pods on node "+name, err)
	}
	var pods []pod
	for i := range list.Items {
		pods = append(pods, podOf(&list.Items[i]))
	}
	return n, pods, nil
}

func (k *kube) withdraw(ctx context.Context, n node) error {
	_, err := k.api.remove(ctx, n, true)
	return err
}

func (k *kube) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range k.watches {
		wg.Go(func() { w.RunWithContext(ctx) })
	}
	wg.Wait()
}
