//go:build e2e && linux

package node_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// showOnFailure logs what a person needs who was not there, if the test has failed: Nodes, pods, events, and what the
// containers said.
func (w *world) showOnFailure(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		w.showNodes(ctx, t)
		w.showPods(ctx, t)
		w.showEvents(ctx, t)
		w.showLogs(t)
	})
}

func (w *world) showNodes(ctx context.Context, t *testing.T) {
	t.Helper()
	nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Log(err)
		return
	}
	for _, n := range nodes.Items {
		t.Logf("node %s: taints %v", n.Name, n.Spec.Taints)
		for key, value := range n.Labels {
			t.Logf("  label %s=%s", key, value)
		}
		for key, value := range n.Annotations {
			t.Logf("  annotation %s=%s", key, value)
		}
		for _, c := range n.Status.Conditions {
			t.Logf("  condition %s=%s: %s", c.Type, c.Status, c.Message)
		}
	}
}

func (w *world) showPods(ctx context.Context, t *testing.T) {
	t.Helper()
	pods, err := w.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Log(err)
		return
	}
	for _, p := range pods.Items {
		t.Logf("pod %s/%s on %q: %s %s", p.Namespace, p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Message)
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			t.Logf("  container %s: ready %t, %d restarts, now %+v, before %+v", c.Name, c.Ready, c.RestartCount, c.State, c.LastTerminationState)
		}
	}
}

func (w *world) showEvents(ctx context.Context, t *testing.T) {
	t.Helper()
	events, err := w.client.EventsV1().Events("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Log(err)
		return
	}
	for _, e := range events.Items {
		t.Logf("event %s on %s %s/%s: %s", e.Reason, e.Regarding.Kind, e.Regarding.Namespace, e.Regarding.Name, e.Note)
	}
}

func (w *world) showLogs(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(w.node.PodLogs(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		const most = 8 << 10
		t.Logf("log %s:\n%s", path, content[max(0, len(content)-most):])
		return err
	})
	if err != nil {
		t.Log(err)
	}
}
