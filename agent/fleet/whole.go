package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/kubeclient"
)

const (
	// fewLeases are read one by one; more are listed.
	fewLeases = 5
	// leasePage is how many one request lists: each has up to 200 KiB.
	leasePage = 50
)

// Complete puts into the Nodes, in place, what their agents had no room for there: the
// models that only the Lease has that the annotation names, and texts in full. It needs
// the right to get and list Leases in the namespace of the agents. Without it the Nodes
// stay as they are, and the error says why; a Lease that is missing, or that cannot be
// read, leaves its Node as it is.
func Complete(ctx context.Context, cfg *rest.Config, nodes []corev1.Node) error {
	wanted := map[string]map[string][]*corev1.Node{} // by namespace and name
	for i := range nodes {
		l, ok := moreOf(&nodes[i])
		if !ok {
			continue
		}
		if wanted[l.Namespace] == nil {
			wanted[l.Namespace] = map[string][]*corev1.Node{}
		}
		wanted[l.Namespace][l.Name] = append(wanted[l.Namespace][l.Name], &nodes[i])
	}
	if len(wanted) == 0 {
		return nil
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = patience
	client, err := kubeclient.New(cfg)
	if err != nil {
		return err
	}
	var first error
	for namespace, names := range wanted {
		err := readLeases(ctx, client.Leases(namespace), names, func(lease *coordinationv1.Lease) {
			for _, n := range names[lease.Name] {
				complete(n, lease)
			}
		})
		first = cmp.Or(first, err)
	}
	return first
}

// moreOf is where the rest of a Node's status is.
func moreOf(n *corev1.Node) (l agent.StatusLease, ok bool) {
	var head struct {
		More string `json:"more"`
	}
	if json.Unmarshal([]byte(n.Annotations[agent.StatusAnnotation]), &head) != nil {
		return l, false
	}
	return agent.ParseStatusLease(head.More)
}

// readLeases hands each of the named Leases over that is there.
func readLeases(ctx context.Context, leases *kubeclient.Leases, names map[string][]*corev1.Node, take func(*coordinationv1.Lease)) error {
	if len(names) <= fewLeases {
		var first error
		for name := range names {
			lease, err := leases.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				first = cmp.Or(first, err)
				continue
			}
			take(lease)
		}
		return first
	}
	o := metav1.ListOptions{LabelSelector: agent.StatusLeaseLabel, Limit: leasePage}
	for {
		l, err := leases.List(ctx, o)
		if err != nil {
			return err
		}
		for i := range l.Items {
			take(&l.Items[i])
		}
		if o.Continue = l.Continue; o.Continue == "" {
			return nil
		}
	}
}

// complete adds to the Node's annotation what the Lease has beyond it.
func complete(n *corev1.Node, lease *coordinationv1.Lease) {
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != n.Name {
		return
	}
	said, _, err := readWord(n.Annotations[agent.StatusAnnotation])
	if err != nil {
		return
	}
	text, err := agent.UnpackStatus(lease.Annotations[agent.StatusAnnotation])
	if err != nil {
		return
	}
	whole, _, err := readWord(text)
	if err != nil || said.Version > agent.StatusVersion {
		return
	}
	out := merge(said, whole, n.Labels)
	b, err := json.Marshal(out)
	if err != nil {
		return
	}
	n.Annotations[agent.StatusAnnotation] = string(b)
}

// merge is what the annotation says, with the models and texts that only the Lease has.
// A Lease that is older than the annotation, because nothing that it holds has changed or
// because it could not be written, is believed where annotation or labels agree with it.
func merge(said, whole agent.NodeStatus, labels map[string]string) agent.NodeStatus {
	have := make(map[string]agent.ModelStatus, len(said.Models))
	for _, m := range said.Models {
		have[m.Name] = m
	}
	current := !whole.Time.Before(said.Time)
	missing := len(said.Models) + said.Omitted
	out := said
	out.Models = nil
	for _, m := range whole.Models {
		short, there := have[m.Name]
		switch {
		case there && !current && !sameModel(short, m):
			m = short
		case !there && !current && !labelled(m, labels):
			continue
		}
		delete(have, m.Name)
		out.Models = append(out.Models, m)
	}
	for _, m := range have {
		if !current {
			out.Models = append(out.Models, m)
		}
	}
	if current {
		out.Time, missing = whole.Time, len(whole.Models)+whole.Omitted
	}
	slices.SortFunc(out.Models, func(a, b agent.ModelStatus) int { return cmp.Compare(a.Name, b.Name) })
	out.Omitted = max(0, missing-len(out.Models))
	if len(out.List.Rejected) < len(whole.List.Rejected) {
		out.List.Rejected = whole.List.Rejected
	}
	return out
}

// sameModel reports whether two entries tell the same but for texts and progress.
func sameModel(a, b agent.ModelStatus) bool {
	sameFits := (a.Fits == nil) == (b.Fits == nil) && (a.Fits == nil || *a.Fits == *b.Fits)
	return a.State == b.State && a.Tier == b.Tier && a.Revision == b.Revision && sameFits && a.Pods == b.Pods
}

// labelled reports whether the warm label is what the entry says.
func labelled(m agent.ModelStatus, labels map[string]string) bool {
	return labels[agent.WarmPrefix+m.Name] == m.Tier && (m.Tier == "" || labels[agent.RevPrefix+m.Name] == short(m.Revision))
}
