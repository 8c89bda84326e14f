package agent

import (
	"context"
	"log/slog"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/agent/kubeclient"
)

// cluster is what the agent needs of Kubernetes. The real one is kube; tests of
// the loop's order and timing put something in memory in its place, tests of
// labels and events never do.
type cluster interface {
	node(ctx context.Context) (nodeView, error)
	apply(ctx context.Context, uid types.UID, s said) (nodeView, error)
	// applyStatus writes the whole status into the agent's own Lease.
	applyStatus(ctx context.Context, l StatusLease, packed string) error
	// agents is about how many agents run in a namespace.
	agents(ctx context.Context, namespace string) (int, error)
	// lift takes startup taints off the Node.
	lift(ctx context.Context, taints []coldTaint) (nodeView, error)
	pods() (pods []pod, known bool)
	event(ctx context.Context, e eventWrite) (name string, err error)
	// lease is where agents on one volume agree who writes.
	lease() elect.Lease
	// carriers are the Nodes that promise a model, each with the revision it says.
	carriers(ctx context.Context, model string) (map[string]string, error)
	// fleet is a watch of the pods of all nodes, for as long as it runs.
	fleet() fleetWatch
	// ledger is where agents tell each other what they have read of a read-only volume.
	ledger() ledgerStore
	// run watches until ctx ends.
	run(ctx context.Context)
}

// kube speaks to the API server.
type kube struct {
	api    nodeAPI
	events eventAPI
	watch  *podWatch
	leases leaseAPI
	labels nodeLabels
	client *kubeclient.Client
	wake   func()
	logger *slog.Logger
	name   string // of the agent's own Node
}

// namespaceOf is the namespace of a Helm release, NAMESPACE/NAME; without one, default.
func namespaceOf(release string) string {
	namespace, _, ok := strings.Cut(release, "/")
	if !ok || namespace == "" {
		return metav1.NamespaceDefault
	}
	return namespace
}

// newKube makes the clients; it sends nothing. wake is called when a pod here
// changes.
func newKube(cfg *rest.Config, node, namespace string, volume VolumeConfig, wake func(), logger *slog.Logger) (*kube, error) {
	client, err := kubeclient.New(cfg)
	if err != nil {
		return nil, err
	}
	labels, err := newNodeLabels(cfg)
	if err != nil {
		return nil, err
	}
	return &kube{
		leases: leaseAPI{leases: client.Leases(volume.Namespace), name: volume.Lease},
		labels: labels,
		client: client, wake: wake, logger: logger, name: node,
		api:    nodeAPI{nodes: client.Nodes(), name: node},
		events: eventAPI{events: client.Events(eventNamespace), node: node, namespace: namespace},
		watch:  newPodWatch(client.Pods(""), node, wake, logger),
	}, nil
}

func (k *kube) node(ctx context.Context) (nodeView, error) { return k.api.get(ctx) }

func (k *kube) apply(ctx context.Context, uid types.UID, s said) (nodeView, error) {
	return k.api.apply(ctx, uid, s)
}

func (k *kube) applyStatus(ctx context.Context, l StatusLease, packed string) error {
	return statusLeaseAPI{leases: k.client.Leases(l.Namespace), node: k.name}.apply(ctx, l, packed)
}

func (k *kube) lift(ctx context.Context, taints []coldTaint) (nodeView, error) {
	return k.api.lift(ctx, taints)
}

func (k *kube) pods() ([]pod, bool) { return k.watch.pods() }

func (k *kube) event(ctx context.Context, e eventWrite) (string, error) {
	return k.events.write(ctx, e)
}

func (k *kube) run(ctx context.Context) { k.watch.run(ctx) }

func (k *kube) lease() elect.Lease { return k.leases }

func (k *kube) ledger() ledgerStore { return &ledgerAPI{leaseAPI: k.leases} }

func (k *kube) carriers(ctx context.Context, model string) (map[string]string, error) {
	return k.labels.carriers(ctx, model)
}

func (k *kube) fleet() fleetWatch { return newPodWatch(k.client.Pods(""), "", k.wake, k.logger) }
