package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// carriersPage is how many Nodes one request asks for. Of each come the metadata
// only, a few KiB, and not the status, which is its larger part: thousands of Nodes
// must not cost an agent its memory limit.
const carriersPage = 500

// nodeLabels reads which Nodes carry a label, for as long as something leaves a
// shared volume.
type nodeLabels struct{ nodes metadata.Getter }

func newNodeLabels(cfg *rest.Config) (nodeLabels, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nodeLabels{}, fmt.Errorf("make a client for the labels of nodes: %w", err)
	}
	return nodeLabels{nodes: client.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))}, nil
}

// carriers returns the revision that each Node with the model's label says. All
// pages are of one moment, which is not before the call: no cache may answer with
// an older one, because files are removed by what it says.
func (l nodeLabels) carriers(ctx context.Context, model string) (map[string]string, error) {
	nodes := map[string]string{}
	o := metav1.ListOptions{LabelSelector: WarmPrefix + model, Limit: carriersPage}
	for {
		page, err := l.nodes.List(ctx, o)
		if apierrors.IsResourceExpired(err) && o.Continue != "" {
			// The API server has forgotten the moment that the first page is of.
			clear(nodes)
			o.Continue = ""
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the nodes with label %s: %w; on a shared volume the agent's account needs list on nodes", WarmPrefix+model, err)
		}
		for i := range page.Items {
			nodes[page.Items[i].Name] = page.Items[i].Labels[RevPrefix+model]
		}
		if o.Continue = page.Continue; o.Continue == "" {
			return nodes, nil
		}
	}
}
