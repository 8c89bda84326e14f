//go:build e2e && linux

package node_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// The life of a release on two nodes: each part begins where the one before has ended.
func TestNode(t *testing.T) {
	w := newWorld(t, 512<<20)
	l := &life{world: w, list: values{tag: "e2e", models: []string{"{name: one, source: 'hf://team/one@main', nodeSelector: {pool: large}}"}}}
	l.one = w.model("team/one", 1, 64<<20)
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"the DaemonSet becomes ready", l.installs},
		{"a model is pulled and its node labelled", l.pulls},
		{"a container reads the model and cannot write", func(t *testing.T) { l.reads(t, "serving") }},
		{"the same under the restricted level", func(t *testing.T) { l.reads(t, "strict") }},
		{"a pod on a cold node waits and starts", l.startsOnTheColdNode},
		{"a changed list restarts no agent", l.changesList},
		{"Python reads the model", l.readsInPython},
		{"the agent is confined", l.runsConfined},
		{"another image keeps every label", l.upgradesImage},
		{"a drained node's pods start on the other warm one", l.drains},
		{"a full memory limit neither kills nor starves", l.pullsBeyondItsMemory},
		{"an agent out of memory comes back", l.survivesOutOfMemory},
		{"an evicted agent comes back", l.survivesEviction},
		{"a full disk is told and no label lies", l.fillsTheDisk},
		{"a node under pressure keeps every label", l.survivesPressure},
		{"a store that is deleted takes its labels away", l.losesItsStore},
		{"a reboot keeps every label", l.reboots},
		{"what is uninstalled leaves nothing", l.uninstalls},
		{"a Job fills a volume that all mount read-only", l.fillsAVolume},
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
	wait(t, "the DaemonSet and the sweeper to be ready", func(ctx context.Context) (bool, error) {
		set, err := l.client.AppsV1().DaemonSets(systemNamespace).Get(ctx, release, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		sweeper, err := l.client.AppsV1().Deployments(systemNamespace).Get(ctx, release+"-sweeper", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return set.Status.DesiredNumberScheduled == 2 && set.Status.NumberReady == 2 && sweeper.Status.ReadyReplicas == 1, nil
	})
}

func (l *life) pulls(t *testing.T) {
	l.first.waitLabel(t, "warm.stoker.dev/one", "disk")
	l.first.waitLabel(t, "fits.stoker.dev/one", "8")
	l.second.waitModel(t, "one", "to be left out", func(m agent.ModelStatus) bool { return m.State == agent.StateSkipped })
	l.second.waitLabel(t, "warm.stoker.dev/one", "")
}

func (l *life) reads(t *testing.T, namespace string) {
	l.serve(t, namespace, "one", "one", nil)
	pod, s := l.seenBy(t, namespace, "one")
	checkSeen(t, s, l.one)
	if pod.Spec.NodeName != l.first.name {
		t.Errorf("the pod is on %s; %s is the warm node", pod.Spec.NodeName, l.first.name)
	}
	if !strings.HasPrefix(s.Model, "/models/models/one/") {
		t.Errorf("/stoker/model leads to %s, not to a revision in the store", s.Model)
	}
	if len(pod.Status.InitContainerStatuses) != 1 || pod.Status.InitContainerStatuses[0].Name != "stoker-wait" ||
		pod.Status.InitContainerStatuses[0].State.Terminated == nil {
		t.Errorf("the init containers are %+v", pod.Status.InitContainerStatuses)
	}
}

// startsOnTheColdNode has a pod land where the list wants the model not to be: it waits, the agent there pulls, it starts.
func (l *life) startsOnTheColdNode(t *testing.T) {
	// Slow enough to see the pod wait, fast enough to be soon over.
	const slow = 4 << 20
	l.hub.SetBytesPerSecond(slow)
	defer l.hub.SetBytesPerSecond(0)
	l.serve(t, "serving", "cold", "one", map[string]string{"pool": "small"})
	wait(t, "the pod on the cold node to wait for a pull that is under way", func(ctx context.Context) (bool, error) {
		pods, err := l.podsOf(ctx, "serving", "cold")
		if err != nil || len(pods) != 1 || len(pods[0].Status.InitContainerStatuses) != 1 {
			return false, err
		}
		return pods[0].Status.InitContainerStatuses[0].State.Running != nil, nil
	})
	pulling := l.second.waitModel(t, "one", "to be pulled", func(m agent.ModelStatus) bool { return m.State == agent.StatePulling })
	n, err := l.second.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if pulling.Pods != 1 || n.Labels["warm.stoker.dev/one"] != "" {
		t.Errorf("while the pod waits, the agent says %+v, and the label is %q", pulling, n.Labels["warm.stoker.dev/one"])
	}
	l.hub.SetBytesPerSecond(0)
	pod, s := l.seenBy(t, "serving", "cold")
	checkSeen(t, s, l.one)
	ended := pod.Status.InitContainerStatuses[0].State.Terminated
	if pod.Spec.NodeName != l.second.name || ended == nil {
		t.Fatalf("the pod is on %s, and its init container %+v", pod.Spec.NodeName, pod.Status.InitContainerStatuses[0])
	}
	t.Logf("its init container waited for %s", ended.FinishedAt.Sub(ended.StartedAt.Time))
	l.second.waitLabel(t, "warm.stoker.dev/one", "disk")
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

// agentOn is the one pod of the DaemonSet on a node that is not being deleted and did not fail; nil if there is none.
func (l *life) agentOn(ctx context.Context, m *machine) (*corev1.Pod, error) {
	pods, err := l.agentPods(ctx)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		if pod.Spec.NodeName == m.name && pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodFailed {
			return &pod, nil
		}
	}
	return nil, nil
}

// agentPod is the agent on a node.
func (l *life) agentPod(t *testing.T, m *machine) *corev1.Pod {
	t.Helper()
	pod, err := l.agentOn(t.Context(), m)
	if err != nil || pod == nil {
		t.Fatalf("no agent on %s: %v", m.name, err)
	}
	return pod
}

// waitAgent waits for a ready agent on a node that satisfies more, and that has observed and written since.
func (l *life) waitAgent(t *testing.T, m *machine, what string, wanted func(*corev1.Pod) bool) {
	t.Helper()
	wait(t, "an agent on "+m.name+" "+what, func(ctx context.Context) (bool, error) {
		pod, err := l.agentOn(ctx, m)
		return err == nil && pod != nil && ready(pod) && wanted(pod), err
	})
	m.waitHeartbeat(t)
}

func (l *life) changesList(t *testing.T) {
	before := [2]*corev1.Pod{l.agentPod(t, l.first), l.agentPod(t, l.second)}
	l.model("team/two", 2, 16<<20)
	// One more, and from now on both nodes should hold both.
	l.list.models = []string{"{name: one, source: 'hf://team/one@main'}", "{name: two, source: 'hf://team/two@main'}"}
	l.install(t, l.list)
	for i, m := range []*machine{l.first, l.second} {
		m.waitLabel(t, "warm.stoker.dev/two", "disk")
		m.waitLabel(t, "warm.stoker.dev/one", "disk")
		after := l.agentPod(t, m)
		if after.UID != before[i].UID || after.Status.ContainerStatuses[0].RestartCount != before[i].Status.ContainerStatuses[0].RestartCount {
			t.Errorf("the agent was restarted: %s with %d restarts, before %s with %d", after.Name, after.Status.ContainerStatuses[0].RestartCount,
				before[i].Name, before[i].Status.ContainerStatuses[0].RestartCount)
		}
	}
}
