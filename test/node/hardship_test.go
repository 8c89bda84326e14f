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
	"k8s.io/apimachinery/pkg/types"
)

// patchNode writes to the Node as an administrator.
func (w *world) patchNode(t *testing.T, patch string) {
	t.Helper()
	_, err := w.client.CoreV1().Nodes().Patch(t.Context(), nodeName, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// pullsBeyondItsMemory pulls a model of four times the agent's memory limit: the page cache of what is written is
// charged to the agent, and must be given back by the kernel rather than kill it.
func (l *life) pullsBeyondItsMemory(t *testing.T) {
	l.list.memory = "128Mi"
	l.install(t, l.list)
	l.wait(t, "an agent with the smaller limit", func(ctx context.Context) (bool, error) {
		pods, err := l.agentPods(ctx)
		if err != nil || len(pods) != 1 {
			return false, err
		}
		limit := pods[0].Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]
		return limit.String() == l.list.memory && ready(&pods[0]), nil
	})
	l.waitHeartbeat(t)
	before := l.agentPod(t)
	l.model("team/big", 3, 512<<20)
	l.list.models = append(l.list.models, "{name: big, source: 'hf://team/big@main'}")
	started := time.Now()
	l.install(t, l.list)
	l.waitLabel(t, "warm.stoker.dev/big", "disk")
	t.Logf("512 MiB under a limit of %s were warm %.1f s after helm upgrade began", l.list.memory, time.Since(started).Seconds())
	after := l.agentPod(t)
	if after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the agent was restarted %d times: %+v", after.Status.ContainerStatuses[0].RestartCount, after.Status.ContainerStatuses[0].LastTerminationState)
	}
}

// survivesOutOfMemory takes the agent's memory away until the kernel kills it.
func (l *life) survivesOutOfMemory(t *testing.T) {
	before := l.agentPod(t)
	finish := l.watchLabels(t, "warm.stoker.dev/", "rev.stoker.dev/")
	l.wait(t, "the agent to have been killed, and to run again", func(ctx context.Context) (bool, error) {
		pods, err := l.agentPods(ctx)
		if err != nil || len(pods) != 1 || len(pods[0].Status.ContainerStatuses) != 1 {
			return false, err
		}
		status := pods[0].Status.ContainerStatuses[0]
		if status.RestartCount == 0 {
			squeeze(t, before)
			// To answer takes memory. That it cannot is the point.
			_ = get(ctx, "http://"+before.Status.PodIP+":9808/metrics", io.Discard)
			return false, nil
		}
		if last := status.LastTerminationState.Terminated; last == nil || last.Reason != "OOMKilled" {
			return false, fmt.Errorf("it ended by %+v", last)
		}
		return ready(&pods[0]), nil
	})
	l.waitHeartbeat(t)
	finish()
}

// squeeze lowers the memory limit of the running container in its cgroup to what it uses, if it runs.
func squeeze(t *testing.T, pod corev1.Pod) {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	for usage, limit := range map[string]string{"memory.usage_in_bytes": "memory.limit_in_bytes", "memory.current": "memory.max"} {
		found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", box.CGroup, "kubepods", "*", "pod"+string(pod.UID), id, usage))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
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

// survivesEviction evicts the agent, as for a drain or for want of resources.
func (l *life) survivesEviction(t *testing.T) {
	before := l.agentPod(t)
	finish := l.watchLabels(t, "warm.stoker.dev/", "rev.stoker.dev/")
	err := l.client.PolicyV1().Evictions(systemNamespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: before.Name, Namespace: systemNamespace},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.wait(t, "another agent", func(ctx context.Context) (bool, error) {
		pods, err := l.agentPods(ctx)
		if err != nil || len(pods) != 1 {
			return false, err
		}
		return pods[0].UID != before.UID && ready(&pods[0]), nil
	})
	l.waitHeartbeat(t)
	finish()
}

// losesItsFiles deletes what the store holds behind the agent's back: the labels go, and come when all is there again.
func (l *life) losesItsFiles(t *testing.T) {
	blobs := filepath.Join(storePath(), "blobs", "sha256")
	if err := os.RemoveAll(blobs); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	l.waitLabel(t, "warm.stoker.dev/one", "")
	gone := time.Since(started)
	t.Logf("the label went %.1f s after the files", gone.Seconds())
	if gone > time.Minute {
		t.Error("that is more than a minute")
	}
	for _, name := range []string{"one", "two", "big"} {
		l.waitLabel(t, "warm.stoker.dev/"+name, "disk")
	}
	l.serve(t, "serving", "again", "one")
	_, s := l.seenBy(t, "serving", "again")
	checkSeen(t, s, l.one)
}

// reboots halts the node and starts it again. The labels stay: nobody took them, and they are true when it is back.
func (l *life) reboots(t *testing.T) {
	finish := l.watchLabels(t, "warm.stoker.dev/", "rev.stoker.dev/")
	if err := l.node.Halt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids := l.agentProcesses(t); len(pids) > 0 {
		t.Fatalf("agents still run: %q", pids)
	}
	if err := l.node.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.node.StartKubelet(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.node.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wait(t, "the agent to run again", func(ctx context.Context) (bool, error) {
		pods, err := l.agentPods(ctx)
		return err == nil && len(pods) == 1 && ready(&pods[0]) && len(l.agentProcesses(t)) > 0, err
	})
	l.waitHeartbeat(t)
	for _, namespace := range []string{"serving", "strict"} {
		_, s := l.seenBy(t, namespace, "one")
		checkSeen(t, s, l.one)
	}
	finish()
}
