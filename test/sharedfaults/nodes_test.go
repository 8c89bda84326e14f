package sharedfaults

import (
	"context"
	"maps"
	"strings"
	"sync"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/test/ordeal"
)

// promise is what one label says.
type promise struct{ name, revision string }

// history is what the last version of a Node has said.
type history struct {
	mu  sync.Mutex
	now map[string]string
}

// watchNodes sees every version of the Nodes until ctx ends: a label that goes
// without a reason is seen however short that was.
func (w *world) watchNodes(ctx context.Context, from *corev1.NodeList) {
	version := from.ResourceVersion
	for i := range from.Items {
		w.seeNode(&from.Items[i])
	}
	for ctx.Err() == nil {
		stream, err := w.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{LabelSelector: walkLabel + "=" + w.mark(), ResourceVersion: version})
		if err != nil {
			if ctx.Err() == nil {
				w.fail("watch the Nodes: %v", err)
			}
			return
		}
		for event := range stream.ResultChan() {
			n, ok := event.Object.(*corev1.Node)
			if !ok {
				w.fail("watch the Nodes: %v", event.Object)
				break
			}
			version = n.ResourceVersion
			w.seeNode(n)
		}
		stream.Stop()
	}
}

// seeNode takes one version of a Node.
func (w *world) seeNode(n *corev1.Node) {
	m := w.memberOf(n.Name)
	if m == nil {
		return
	}
	now := ordeal.Promises(n.Labels)
	m.history.mu.Lock()
	before := m.history.now
	m.history.now = now
	m.history.mu.Unlock()
	if !maps.Equal(before, now) {
		w.note("%s says %v", m.node, now)
	}
	for name := range now {
		if value := n.Labels[ordeal.WarmPrefix+name]; value != "shared" && value != "ram" {
			w.fail("%s calls %s %q", m.node, name, value)
		}
	}
	for name := range before {
		if _, still := now[name]; !still && !w.excused(name) && !m.loose.Load() {
			w.fail("the label of %s went from %s without a reason", name, m.node)
		}
	}
}

// watchLease sees who writes until ctx ends.
func (w *world) watchLease(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := w.client.CoordinationV1().Leases(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + leaseName})
		if err != nil {
			if ctx.Err() == nil {
				w.fail("watch the Lease: %v", err)
			}
			return
		}
		for event := range stream.ResultChan() {
			l, ok := event.Object.(*coordinationv1.Lease)
			if !ok || l.Spec.HolderIdentity == nil {
				continue
			}
			holder, _, _ := strings.Cut(*l.Spec.HolderIdentity, "_")
			if before := w.holder.Swap(&holder); before == nil || *before != holder {
				w.note("the Lease is held by %q", holder)
				w.source.Killed() // pulls end with a time of writing
				w.exposed()
			}
		}
		stream.Stop()
	}
}
