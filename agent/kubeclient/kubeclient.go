// Package kubeclient makes client-go's typed clients for Nodes, pods,
// PersistentVolumes, events and Leases.
//
// client-go's own clientsets register every kind of every API group with their
// codecs, whichever of them a program uses: a quarter of Stoker's executable,
// and as much of what an idle agent keeps resident. Here only the groups core/v1,
// events.k8s.io/v1 and coordination.k8s.io/v1 are known. It is not for other kinds, and decides nothing:
// requests, errors and watches are client-go's. There is no Apply, because
// client-go's types for it bring all groups as well: it is a Patch of the type
// that server-side apply has.
package kubeclient

import (
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
)

type (
	// Nodes has the methods of client-go's typed client of the same name.
	Nodes = gentype.ClientWithList[*corev1.Node, *corev1.NodeList]
	// Pods has, too.
	Pods = gentype.ClientWithList[*corev1.Pod, *corev1.PodList]
	// PersistentVolumes has, too.
	PersistentVolumes = gentype.ClientWithList[*corev1.PersistentVolume, *corev1.PersistentVolumeList]
	// Events has those but for lists.
	Events = gentype.Client[*eventsv1.Event]
	// Leases have the methods of client-go's typed client.
	Leases = gentype.ClientWithList[*coordinationv1.Lease, *coordinationv1.LeaseList]
)

// Client reaches one API server.
type Client struct {
	core, events, leases rest.Interface
	parameters           runtime.ParameterCodec
}

// New makes a client; it sends nothing. cfg is not changed.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, eventsv1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("make a client for the API server: %w", err)
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	core, err := restClient(cfg, scheme, "/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("make a client for the API server: %w", err)
	}
	events, err := restClient(cfg, scheme, "/apis", eventsv1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("make a client for events: %w", err)
	}
	leases, err := restClient(cfg, scheme, "/apis", coordinationv1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("make a client for leases: %w", err)
	}
	return &Client{core: core, events: events, leases: leases, parameters: runtime.NewParameterCodec(scheme)}, nil
}

func restClient(cfg *rest.Config, scheme *runtime.Scheme, path string, group schema.GroupVersion) (rest.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath, cfg.GroupVersion = path, &group
	cfg.NegotiatedSerializer = rest.CodecFactoryForGeneratedClient(scheme, serializer.NewCodecFactory(scheme)).WithoutConversion()
	if cfg.UserAgent == "" {
		cfg.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	return rest.RESTClientFor(cfg)
}

// Nodes of the cluster.
func (c *Client) Nodes() *Nodes {
	return gentype.NewClientWithList(
		"nodes", c.core, c.parameters, "",
		func() *corev1.Node { return &corev1.Node{} }, func() *corev1.NodeList { return &corev1.NodeList{} },
	)
}

// Pods of a namespace; "": of all.
func (c *Client) Pods(namespace string) *Pods {
	return gentype.NewClientWithList(
		"pods", c.core, c.parameters, namespace,
		func() *corev1.Pod { return &corev1.Pod{} }, func() *corev1.PodList { return &corev1.PodList{} },
	)
}

// PersistentVolumes of the cluster.
func (c *Client) PersistentVolumes() *PersistentVolumes {
	return gentype.NewClientWithList(
		"persistentvolumes", c.core, c.parameters, "",
		func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} }, func() *corev1.PersistentVolumeList { return &corev1.PersistentVolumeList{} },
	)
}

// Events of a namespace, of the group events.k8s.io.
func (c *Client) Events(namespace string) *Events {
	return gentype.NewClient("events", c.events, c.parameters, namespace, func() *eventsv1.Event { return &eventsv1.Event{} })
}

// Leases of a namespace, of the group coordination.k8s.io.
func (c *Client) Leases(namespace string) *Leases {
	return gentype.NewClientWithList(
		"leases", c.leases, c.parameters, namespace,
		func() *coordinationv1.Lease { return &coordinationv1.Lease{} }, func() *coordinationv1.LeaseList { return &coordinationv1.LeaseList{} },
	)
}
