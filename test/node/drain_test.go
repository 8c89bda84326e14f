//go:build e2e && linux

package node_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/drain"
)

// drains takes the pods off one node and then off the other, as kubectl drain does: each time they start on the node that
// is left, which is warm, and no label goes, since the agents stay.
func (l *life) drains(t *testing.T) {
	agents := [2]*corev1.Pod{l.agentPod(t, l.first), l.agentPod(t, l.second)}
	finish := l.watchLabels(t)
	l.drainTo(t, l.first, l.second)
	// It may not go elsewhere.
	err := l.client.AppsV1().Deployments("serving").Delete(t.Context(), "cold", metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.drainTo(t, l.second, l.first)
	finish()
	for i, m := range []*machine{l.first, l.second} {
		if after := l.agentPod(t, m); after.UID != agents[i].UID {
			t.Errorf("the agent on %s was replaced", m.name)
		}
	}
}

// drainTo drains a node, waits until its pods run on the other, and lets pods onto it again.
func (l *life) drainTo(t *testing.T, from, to *machine) {
	t.Helper()
	var said bytes.Buffer
	// As kubectl drain --ignore-daemonsets --delete-emptydir-data.
	helper := &drain.Helper{
		Ctx: t.Context(), Client: l.client, GracePeriodSeconds: -1, Timeout: 2 * time.Minute,
		IgnoreAllDaemonSets: true, DeleteEmptyDirData: true, Out: &said, ErrOut: &said,
	}
	n, err := from.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := drain.RunCordonOrUncordon(helper, n, true); err != nil {
		t.Fatalf("cordon %s: %v\n%s", from.name, err, said.Bytes())
	}
	started := time.Now()
	if err := drain.RunNodeDrain(helper, from.name); err != nil {
		t.Fatalf("drain %s: %v\n%s", from.name, err, said.Bytes())
	}
	for _, namespace := range []string{"serving", "strict"} {
		pod, s := l.seenBy(t, namespace, "one")
		checkSeen(t, s, l.one)
		if pod.Spec.NodeName != to.name {
			t.Errorf("the pod is on %s, not on %s", pod.Spec.NodeName, to.name)
		}
	}
	t.Logf("%s drained, and its pods have read the model on %s, in %.1f s", from.name, to.name, time.Since(started).Seconds())
	pods, err := l.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + from.name})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if owner := metav1.GetControllerOf(&pod); owner == nil || owner.Kind != "DaemonSet" {
			t.Errorf("%s/%s is still on %s", pod.Namespace, pod.Name, from.name)
		}
	}
	if n, err = from.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := drain.RunCordonOrUncordon(helper, n, false); err != nil {
		t.Fatal(err)
	}
	wait(t, from.name+" to take pods again", func(ctx context.Context) (bool, error) {
		n, err := from.get(ctx)
		return err == nil && !n.Spec.Unschedulable && len(n.Spec.Taints) == 0, err
	})
}
