//go:build e2e && linux

package node_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// The life of a release on one node: each part begins where the one before has ended.
func TestNode(t *testing.T) {
	w := newWorld(t)
	w.showOnFailure(t)
	w.namespace("serving", nil)
	w.namespace("strict", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	l := &life{world: w, list: values{tag: "e2e", models: []string{"{name: one, source: 'hf://team/one@main'}"}}}
	l.one = w.model("team/one", 1, 64<<20)
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"the DaemonSet becomes ready", l.installs},
		{"a model is pulled and the node labelled", l.pulls},
		{"a container reads the model and cannot write", func(t *testing.T) { l.reads(t, "serving") }},
		{"the same under the restricted level", func(t *testing.T) { l.reads(t, "strict") }},
		{"a changed list restarts no agent", l.changesList},
		{"the agent is confined", l.runsConfined},
		{"another image keeps every label", l.upgradesImage},
		{"a full memory limit neither kills nor starves", l.pullsBeyondItsMemory},
		{"an agent out of memory comes back", l.survivesOutOfMemory},
		{"an evicted agent comes back", l.survivesEviction},
		{"files that are gone take their labels away", l.losesItsFiles},
		{"a reboot keeps every label", l.reboots},
		{"what is uninstalled leaves nothing", l.uninstalls},
	} {
		if !t.Run(strings.ReplaceAll(part.name, " ", "-"), part.test) {
			return
		}
	}
}

// life is what the parts share.
type life struct {
	*world
	list values
	one  fetchertest.Tree
}

func (l *life) installs(t *testing.T) {
	l.install(t, l.list)
	l.wait(t, "the DaemonSet and the sweeper to be ready", func(ctx context.Context) (bool, error) {
		set, err := l.client.AppsV1().DaemonSets(systemNamespace).Get(ctx, release, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		sweeper, err := l.client.AppsV1().Deployments(systemNamespace).Get(ctx, release+"-sweeper", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return set.Status.DesiredNumberScheduled == 1 && set.Status.NumberReady == 1 && sweeper.Status.ReadyReplicas == 1, nil
	})
}

func (l *life) pulls(t *testing.T) {
	l.waitLabel(t, "warm.stoker.dev/one", "disk")
	l.waitLabel(t, "fits.stoker.dev/one", "8")
}

func (l *life) reads(t *testing.T, namespace string) {
	l.serve(t, namespace, "one", "one")
	pod, s := l.seenBy(t, namespace, "one")
	checkSeen(t, s, l.one)
	if !strings.HasPrefix(s.Model, "/models/models/one/") {
		t.Errorf("/stoker/model leads to %s, not to a revision in the store", s.Model)
	}
	if len(pod.Status.InitContainerStatuses) != 1 || pod.Status.InitContainerStatuses[0].Name != "stoker-wait" ||
		pod.Status.InitContainerStatuses[0].State.Terminated == nil {
		t.Errorf("the init containers are %+v", pod.Status.InitContainerStatuses)
	}
}

// agentPods are the DaemonSet's pods.
func (l *life) agentPods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := l.client.CoreV1().Pods(systemNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=stoker,app.kubernetes.io/instance=" + release,
	})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// agentPod is the one pod of the DaemonSet.
func (l *life) agentPod(t *testing.T) corev1.Pod {
	t.Helper()
	pods, err := l.agentPods(t.Context())
	if err != nil || len(pods) != 1 {
		t.Fatalf("there are %d agents: %v", len(pods), err)
	}
	return pods[0]
}

func (l *life) changesList(t *testing.T) {
	before := l.agentPod(t)
	l.model("team/two", 2, 16<<20)
	l.list.models = append(l.list.models, "{name: two, source: 'hf://team/two@main'}")
	l.install(t, l.list)
	l.waitLabel(t, "warm.stoker.dev/two", "disk")
	l.waitLabel(t, "warm.stoker.dev/one", "disk")
	after := l.agentPod(t)
	if after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != before.Status.ContainerStatuses[0].RestartCount {
		t.Errorf("the agent was restarted: %s with %d restarts, before %s with %d", after.Name, after.Status.ContainerStatuses[0].RestartCount,
			before.Name, before.Status.ContainerStatuses[0].RestartCount)
	}
}
