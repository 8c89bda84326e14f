//go:build e2e && linux

package node_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// showOnFailure logs what a person needs who was not there, if the test has failed: Nodes, pods, events, and what the
// containers said.
func (w *world) showOnFailure(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(func() {
		if !tb.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		w.showNodes(ctx, tb)
		w.showPods(ctx, tb)
		w.showEvents(ctx, tb)
		w.showLogs(tb)
	})
}

func (w *world) showNodes(ctx context.Context, tb testing.TB) {
	tb.Helper()
	nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		tb.Log(err)
		return
	}
	for _, n := range nodes.Items {
		tb.Logf("node %s: taints %v", n.Name, n.Spec.Taints)
		for key, value := range n.Labels {
			tb.Logf("  label %s=%s", key, value)
		}
		for key, value := range n.Annotations {
			tb.Logf("  annotation %s=%s", key, value)
		}
		for _, c := range n.Status.Conditions {
			tb.Logf("  condition %s=%s: %s", c.Type, c.Status, c.Message)
		}
	}
}

func (w *world) showPods(ctx context.Context, tb testing.TB) {
	tb.Helper()
	pods, err := w.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		tb.Log(err)
		return
	}
	for _, p := range pods.Items {
		tb.Logf("pod %s/%s on %q: %s %s", p.Namespace, p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Message)
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			tb.Logf("  container %s: ready %t, %d restarts, now %+v, before %+v", c.Name, c.Ready, c.RestartCount, c.State, c.LastTerminationState)
		}
	}
}

func (w *world) showEvents(ctx context.Context, tb testing.TB) {
	tb.Helper()
	events, err := w.client.EventsV1().Events("").List(ctx, metav1.ListOptions{})
	if err != nil {
		tb.Log(err)
		return
	}
	for _, e := range events.Items {
		tb.Logf("event %s on %s %s/%s: %s", e.Reason, e.Regarding.Kind, e.Regarding.Namespace, e.Regarding.Name, e.Note)
	}
}

func (w *world) showLogs(tb testing.TB) {
	tb.Helper()
	for number := 1; number <= 2; number++ {
		name := "node-" + strconv.Itoa(number)
		for _, log := range []string{"containerd.log", "kubelet.log", "pod-logs"} {
			showFiles(tb, filepath.Join(box.Dir, name, log))
		}
	}
}

// showFiles logs the ends of a file, or of the files below a directory.
func showFiles(tb testing.TB, path string) {
	tb.Helper()
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		const most = 8 << 10
		tb.Logf("log %s:\n%s", path, content[max(0, len(content)-most):])
		return err
	})
	if err != nil {
		tb.Log(err)
	}
}
