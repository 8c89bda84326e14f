package faults

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// getNode reads the Node as an administrator, not by the way that is broken.
func (w *world) getNode(ctx context.Context) (*corev1.Node, error) {
	return w.client.CoreV1().Nodes().Get(ctx, w.node, metav1.GetOptions{})
}

// history is what every change of the Node has said.
type history struct {
	mu  sync.Mutex
	now map[string]string
	// since is when a promise was made that still stands.
	since map[promise]time.Time
	seen  int
}

type promise struct{ name, revision string }

// watchNode sees every version of the Node until ctx ends: a label that goes
// without a reason is seen however short that was.
func (w *world) watchNode(ctx context.Context, from *corev1.Node) {
	version := from.ResourceVersion
	w.see(from)
	for ctx.Err() == nil {
		stream, err := w.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{
			FieldSelector: "metadata.name=" + w.node, ResourceVersion: version,
		})
		if err != nil {
			if ctx.Err() == nil {
				w.fail("watch the Node: %v", err)
			}
			return
		}
		for event := range stream.ResultChan() {
			n, ok := event.Object.(*corev1.Node)
			if !ok {
				w.fail("watch the Node: %v", event.Object)
				break
			}
			version = n.ResourceVersion
			w.see(n)
		}
		stream.Stop()
	}
}

// see takes one version of the Node.
func (w *world) see(n *corev1.Node) {
	now, at := ordeal.Promises(n.Labels), time.Now()
	w.history.mu.Lock()
	before := w.history.now
	w.history.now = now
	w.history.seen++
	for name, revision := range now {
		if before[name] != revision {
			w.history.since[promise{name, revision}] = at
		}
	}
	w.history.mu.Unlock()
	if !maps.Equal(before, now) {
		w.note("the Node says %v", now)
	}
	for name := range before {
		if _, still := now[name]; !still && !w.excused(name) {
			w.fail("the label of %s went without a reason", name)
		}
	}
}

// stood says whether a label has promised something for so long by what the
// watch has seen.
func (h *history) stood(p promise, d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now[p.name] == p.revision && time.Since(h.since[p]) > d
}
