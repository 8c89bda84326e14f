package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/kubeclient"
)

// leasePage is how many Leases one request lists: each has up to 200 KiB.
const leasePage = 50

// rests finds what Nodes had no room for, in the Leases that their annotations name. It
// needs the right to get Leases in the agents' namespace for one Node, and to list them for
// all. Without it Nodes stay as they are.
type rests struct {
	client *kubeclient.Client
	// all is whether to list a namespace's Leases, once, instead of asking for each.
	all bool
	// listed are the Leases that were read, by namespace and name: their holder and what
	// they have, packed.
	listed map[string]map[string]leased
	err    error
}

// leased is what a Lease has of a Node's status.
type leased struct{ holder, packed string }

// complete puts into the Nodes, in place, the models that only the Lease has, and texts in
// full. A Lease that is missing, or that cannot be read, leaves its Node as it is.
func (r *rests) complete(ctx context.Context, nodes []corev1.Node) {
	for i := range nodes {
		l, ok := moreOf(&nodes[i])
		if !ok {
			continue
		}
		if r.listed[l.Namespace] == nil {
			if r.listed == nil {
				r.listed = map[string]map[string]leased{}
			}
			r.listed[l.Namespace] = map[string]leased{}
			if r.all {
				r.list(ctx, l.Namespace)
			}
		}
		if !r.all {
			lease, err := r.client.Leases(l.Namespace).Get(ctx, l.Name, metav1.GetOptions{})
			if err != nil {
				r.err = cmp.Or(r.err, err)
				continue
			}
			r.take(lease)
		}
		if found, ok := r.listed[l.Namespace][l.Name]; ok {
			complete(&nodes[i], found)
		}
	}
}

// list reads the Leases of a namespace's agents.
func (r *rests) list(ctx context.Context, namespace string) {
	o := metav1.ListOptions{LabelSelector: agent.StatusLeaseLabel, Limit: leasePage}
	for {
		l, err := r.client.Leases(namespace).List(ctx, o)
		if err != nil {
			r.err = cmp.Or(r.err, err)
			return
		}
		for i := range l.Items {
			r.take(&l.Items[i])
		}
		if o.Continue = l.Continue; o.Continue == "" {
			return
		}
	}
}

func (r *rests) take(lease *coordinationv1.Lease) {
	if lease.Spec.HolderIdentity != nil {
		r.listed[lease.Namespace][lease.Name] = leased{*lease.Spec.HolderIdentity, lease.Annotations[agent.StatusAnnotation]}
	}
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

// complete adds to the Node's annotation what its Lease has beyond it.
func complete(n *corev1.Node, found leased) {
	if found.holder != n.Name {
		return
	}
	said, _, err := readWord(n.Annotations[agent.StatusAnnotation])
	if err != nil {
		return
	}
	text, err := agent.UnpackStatus(found.packed)
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
