//go:build e2e && linux

package node_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// survivesOutOfMemory takes the agent's memory away until the kernel kills it.
func (l *life) survivesOutOfMemory(t *testing.T) {
	before := l.agentPod(t, l.first)
	finish := l.watchLabels(t)
	wait(t, "the agent to have been killed, and to run again", func(ctx context.Context) (bool, error) {
		pod, err := l.agentOn(ctx, l.first)
		if err != nil || pod == nil || len(pod.Status.ContainerStatuses) != 1 {
			return false, err
		}
		status := pod.Status.ContainerStatuses[0]
		if status.RestartCount == 0 {
			l.first.squeeze(t, before)
			// To answer takes memory. That it cannot is the point.
			_ = get(ctx, "http://"+before.Status.PodIP+":9808/metrics", io.Discard)
			return false, nil
		}
		if last := status.LastTerminationState.Terminated; last == nil || last.Reason != "OOMKilled" {
			return false, fmt.Errorf("it ended by %+v", last)
		}
		return ready(pod), nil
	})
	l.first.waitHeartbeat(t)
	finish()
}

// memoryFiles are the files of that name in the memory cgroup of a pod, or in one below it.
func (m *machine) memoryFiles(t *testing.T, pod *corev1.Pod, below, name string) []string {
	t.Helper()
	var all []string
	for _, root := range []string{"", "memory"} { // version 2, and 1
		found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", root, m.cgroup, "kubepods", "*", "pod"+string(pod.UID), below, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// squeeze lowers the memory limit of the running container in its cgroup to what it uses, if it runs.
func (m *machine) squeeze(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	for usage, limit := range map[string]string{"memory.usage_in_bytes": "memory.limit_in_bytes", "memory.current": "memory.max"} {
		for _, path := range m.memoryFiles(t, pod, id, usage) {
			content, err := os.ReadFile(path)
			if err != nil {
				continue // it was killed
			}
			used, err := strconv.Atoi(strings.TrimSpace(string(content)))
			if err != nil {
				t.Fatal(err)
			}
			// Version 1 refuses what it cannot reclaim; the limit then stays where it was, a little higher.
			_ = os.WriteFile(filepath.Join(filepath.Dir(path), limit), []byte(strconv.Itoa(used-used/64)), 0o600)
		}
	}
}

// survivesEviction evicts the agent, as somebody may who wants it elsewhere.
func (l *life) survivesEviction(t *testing.T) {
	before := l.agentPod(t, l.first)
	finish := l.watchLabels(t)
	err := l.client.PolicyV1().Evictions(systemNamespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: before.Name, Namespace: systemNamespace},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.waitAgent(t, l.first, "after the eviction", func(pod *corev1.Pod) bool { return pod.UID != before.UID })
	finish()
}

// survivesPressure has the kubelet find too little memory, so that it evicts the agent, for as long as that lasts.
func (l *life) survivesPressure(t *testing.T) {
	before := l.agentPod(t, l.second)
	finish := l.watchLabels(t)
	if err := l.second.SetMemoryFloor(t.Context(), "100Ti"); err != nil {
		t.Fatal(err)
	}
	wait(t, "the kubelet to evict the agent", func(ctx context.Context) (bool, error) {
		n, err := l.second.get(ctx)
		if err != nil || condition(n, corev1.NodeMemoryPressure) != corev1.ConditionTrue {
			return false, err
		}
		pods, err := l.agentPods(ctx)
		for _, pod := range pods {
			if pod.UID == before.UID {
				// Gone or failed: the DaemonSet's controller removes what failed.
				return pod.Status.Phase == corev1.PodFailed, fmt.Errorf("it is %s: %s", pod.Status.Phase, pod.Status.Message)
			}
		}
		return err == nil, err
	})
	if err := l.second.SetMemoryFloor(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	wait(t, "the pressure to end", func(ctx context.Context) (bool, error) {
		n, err := l.second.get(ctx)
		return err == nil && condition(n, corev1.NodeMemoryPressure) == corev1.ConditionFalse && len(n.Spec.Taints) == 0, err
	})
	l.waitAgent(t, l.second, "after the pressure", func(pod *corev1.Pod) bool { return pod.UID != before.UID })
	finish()
}

func condition(n *corev1.Node, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// losesItsStore deletes everything in the store behind the agent's back: the labels go, and come when all is there again.
func (l *life) losesItsStore(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(l.second.disk, "*"))
	if err != nil || len(found) < 5 {
		t.Fatalf("the store holds %q: %v", found, err)
	}
	started := time.Now()
	for _, path := range found {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"one", "two"} {
		l.second.waitLabel(t, "warm.stoker.dev/"+name, "")
	}
	gone := time.Since(started)
	t.Logf("the labels went %.1f s after the files", gone.Seconds())
	if gone > time.Minute {
		t.Error("that is more than a minute")
	}
	for _, name := range []string{"one", "two"} {
		l.second.waitLabel(t, "warm.stoker.dev/"+name, "disk")
	}
	l.serve(t, "serving", "again", "one", map[string]string{"pool": "small"})
	_, s := l.seenBy(t, "serving", "again")
	checkSeen(t, s, l.one)
}

// reboots halts a node and starts it again. The labels stay: nobody took them, and they are true when it is back.
func (l *life) reboots(t *testing.T) {
	finish := l.watchLabels(t)
	halted := time.Now()
	if err := l.first.Halt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids := l.first.agentProcesses(t); len(pids) > 0 {
		t.Fatalf("agents still run: %q", pids)
	}
	if len(l.second.agentProcesses(t)) == 0 {
		t.Fatal("the other node's agent went too")
	}
	if err := l.first.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, "the agent's process", func(context.Context) (bool, error) { return len(l.first.agentProcesses(t)) > 0, nil })
	l.waitAgent(t, l.first, "after the reboot", func(*corev1.Pod) bool { return true })
	for _, namespace := range []string{"serving", "strict"} {
		pod, s := l.seenBy(t, namespace, "one")
		checkSeen(t, s, l.one)
		if pod.Spec.NodeName != l.first.name || s.Started.Before(halted) {
			t.Errorf("%s/%s on %s runs since %s and did not start again", namespace, pod.Name, pod.Spec.NodeName, s.Started)
		}
	}
	finish()
}
