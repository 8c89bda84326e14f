//go:build e2e && linux

package node_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const (
	// bigModel is the size of the models that are pulled under a memory limit, a quarter of it.
	bigModel    = 512 << 20
	memoryLimit = "128Mi"
	// crawl is how many times as long as without the limit would be too long: an order of magnitude, which is what
	// dirty pages at the limit cost. What it really is, 0.4 to 2.9 on machines that do other work, is printed.
	crawl = 10
)

// pullsBeyondItsMemory pulls models of four times the agent's memory limit: the page cache of what is written is charged
// to the agent, and must be given back by the kernel rather than kill it or stop it. The same pulls without that limit,
// before, tell how long they should take.
func (l *life) pullsBeyondItsMemory(t *testing.T) {
	free := l.pullBig(t, 2)
	l.list.memory = memoryLimit
	l.install(t, l.list)
	for _, m := range []*machine{l.first, l.second} {
		l.waitAgent(t, m, "with the smaller limit", func(pod *corev1.Pod) bool {
			limit := pod.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]
			return limit.String() == memoryLimit
		})
	}
	before := l.agentPod(t, l.first)
	limited := l.pullBig(t, 2)
	for more := 0; more < 3 && limited > crawl*free; more++ {
		limited = min(limited, l.pullBig(t, 1)) // what slowed them may have been something else on the machine
	}
	after := l.agentPod(t, l.first)
	if after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the agent was restarted %d times: %+v", after.Status.ContainerStatuses[0].RestartCount, after.Status.ContainerStatuses[0].LastTerminationState)
	}
	most, met := l.first.memoryUse(t, after)
	t.Logf("%d MiB in %.2f s without the limit, in %.2f s (%.2f times) with %s; the agent and its pages took up to %d MiB, and met the limit %d times",
		bigModel>>20, free, limited, limited/free, memoryLimit, most>>20, met)
	if met == 0 {
		t.Error("the limit was never met, so nothing was shown")
	}
	if limited > crawl*free {
		t.Errorf("that is more than %d times as long", crawl)
	}
}

// pullBig has the first node pull that many models, one after the other, and returns the seconds of the fastest: what
// else the machine does only slows.
func (l *life) pullBig(t *testing.T, count int) float64 {
	t.Helper()
	fastest := 0.0
	for range count {
		name := fmt.Sprintf("big-%d", len(l.list.models))
		l.model("team/"+name, uint64(100+len(l.list.models)), bigModel)
		agent := l.agentPod(t, l.first)
		before := pullSeconds(t, agent)
		l.list.models = append(l.list.models, fmt.Sprintf("{name: %[1]s, source: 'hf://team/%[1]s', nodeSelector: {pool: large}}", name))
		l.install(t, l.list)
		l.first.waitLabel(t, "warm.stoker.dev/"+name, "disk")
		if took := pullSeconds(t, agent) - before; fastest == 0 || took < fastest {
			fastest = took
		}
	}
	return fastest
}

// pullSeconds is how long an agent's pulls took in all, by its metrics.
func pullSeconds(t *testing.T, pod *corev1.Pod) float64 {
	t.Helper()
	var page bytes.Buffer
	if err := get(t.Context(), "http://"+pod.Status.PodIP+":9808/metrics", &page); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page.String()) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), `stoker_pull_duration_seconds_sum{result="ok"} `); found {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return seconds
		}
	}
	return 0 // none yet
}

// memoryUse is the most memory that a pod took, in bytes, and how often it met its limit, which is its container's.
func (m *machine) memoryUse(t *testing.T, pod *corev1.Pod) (most, met int64) {
	t.Helper()
	number := func(path, prefix string) (found int64) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if value, ok := strings.CutPrefix(line, prefix); ok {
				if found, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil {
					t.Fatal(err)
				}
			}
		}
		return found
	}
	for _, f := range []struct {
		name, prefix string
		value        *int64
	}{
		{"memory.max_usage_in_bytes", "", &most}, {"memory.failcnt", "", &met}, // version 1
		{"memory.peak", "", &most}, {"memory.events", "max ", &met}, // version 2
	} {
		for _, path := range m.memoryFiles(t, pod, "", f.name) {
			*f.value = number(path, f.prefix)
		}
	}
	return most, met
}
