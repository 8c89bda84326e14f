package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent/kubeclient"
)

// errNoNode is a Node object that does not exist. The agent never creates one.
var errNoNode = errors.New("there is no such Node")

// nodeView is what the agent needs of its Node.
type nodeView struct {
	UID    types.UID
	Labels map[string]string
	// Status is the annotation as it stands.
	Status string
	// GPUs is how many the node can give to pods; GPUsKnown is false where no
	// device plugin has said so.
	GPUs      int
	GPUsKnown bool
	// Memory is how much the node can give to pods, in bytes; 0: not known.
	Memory int64
	// Cold are the startup taints that the agent is to lift.
	Cold []coldTaint
}

// shows says whether the Node says exactly what was said: a key that somebody
// removed or changed is to be written again.
func (n nodeView) shows(s said) bool {
	if n.Status != s.annotation {
		return false
	}
	for k, v := range s.labels {
		if have, ok := n.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// nodeAPI reads and writes the agent's own Node: only get and patch.
type nodeAPI struct {
	nodes *kubeclient.Nodes
	name  string
}

// get reads the Node; errNoNode if there is none.
func (a nodeAPI) get(ctx context.Context) (nodeView, error) {
	n, err := a.nodes.Get(ctx, a.name, metav1.GetOptions{})
	if err != nil {
		return nodeView{}, a.explain("read", err)
	}
	return viewOf(n), nil
}

// apply writes everything that the agent says as one set under its field
// manager: keys that the set leaves out disappear, keys of others stay. The
// UID keeps the request from creating a Node, or from writing to another one
// of the same name, whatever else the agent may do in this cluster.
func (a nodeAPI) apply(ctx context.Context, uid types.UID, s said) (nodeView, error) {
	set, err := json.Marshal(metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{
			Name: a.name, UID: uid, Labels: s.labels, Annotations: map[string]string{StatusAnnotation: s.annotation},
		},
	})
	if err != nil {
		return nodeView{}, err
	}
	force := true
	n, err := a.nodes.Patch(ctx, a.name, types.ApplyPatchType, set, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
	if err != nil {
		return nodeView{}, a.explain("label", err)
	}
	return viewOf(n), nil
}

// explain says what an API error means for the agent.
func (a nodeAPI) explain(op string, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s node %s: %w; check --node-name: it must be the name of this machine's Node object", op, a.name, errNoNode)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s node %s: %w; the agent's account needs get and patch on nodes", op, a.name, err)
	}
	return fmt.Errorf("%s node %s: %w", op, a.name, err)
}

func viewOf(n *corev1.Node) nodeView {
	v := nodeView{UID: n.UID, Labels: maps.Clone(n.Labels), Status: n.Annotations[StatusAnnotation], Cold: coldTaints(n.Spec.Taints)}
	if q, ok := n.Status.Allocatable[gpuResource]; ok {
		v.GPUs, v.GPUsKnown = int(q.Value()), true
	}
	v.Memory = n.Status.Allocatable.Memory().Value()
	return v
}
