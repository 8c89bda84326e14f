//go:build e2e && linux

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watchLabels looks at every version of both Nodes until the returned function is called, which fails the test if one of
// them lacked one of the labels of models that it had at the beginning, or said something else.
func (l *life) watchLabels(t *testing.T) (finish func()) {
	t.Helper()
	first, second := l.first.watchLabels(t), l.second.watchLabels(t)
	return func() {
		t.Helper()
		first()
		second()
	}
}

func (m *machine) watchLabels(t *testing.T) (finish func()) {
	t.Helper()
	n, err := m.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	promised := map[string]string{}
	for key, value := range n.Labels {
		if strings.HasPrefix(key, "warm.stoker.dev/") || strings.HasPrefix(key, "rev.stoker.dev/") {
			promised[key] = value
		}
	}
	if len(promised) == 0 {
		t.Fatalf("%s has no labels of models to watch", m.name)
	}
	watching, err := m.client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + m.name, ResourceVersion: n.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	// The last version to look at is one that finish makes; nothing before it can be missed.
	const mark = "test.stoker.dev/watched-until"
	var wrong []string
	versions := 0
	done := make(chan error, 1)
	go func() {
		for event := range watching.ResultChan() {
			seen, ok := event.Object.(*corev1.Node)
			if !ok {
				done <- fmt.Errorf("watch the Node: %s %v", event.Type, event.Object)
				return
			}
			versions++
			for key, value := range promised {
				if seen.Labels[key] != value {
					wrong = append(wrong, fmt.Sprintf("version %s of %s has %s=%q, not %q", seen.ResourceVersion, m.name, key, seen.Labels[key], value))
				}
			}
			if seen.Annotations[mark] != "" {
				done <- nil
				return
			}
		}
		done <- errors.New("watch the Node: the API server ended it")
	}()
	return func() {
		t.Helper()
		defer watching.Stop()
		for _, value := range []string{`"yes"`, `null`} {
			m.patch(t, `{"metadata":{"annotations":{"`+mark+`":`+value+`}}}`)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("%d versions of %s looked at, for %d labels", versions, m.name, len(promised))
		for _, w := range wrong {
			t.Error(w)
		}
	}
}

// upgradesImage takes the agents to another image while every version of their Nodes is looked at.
func (l *life) upgradesImage(t *testing.T) {
	const next = "e2e-next"
	for _, m := range []*machine{l.first, l.second} {
		if err := m.TagImage(t.Context(), image, "localhost/stoker:"+next); err != nil {
			t.Fatal(err)
		}
	}
	finish := l.watchLabels(t)
	l.list.tag = next
	l.install(t, l.list)
	for _, m := range []*machine{l.first, l.second} {
		l.waitAgent(t, m, "of the other image", func(pod *corev1.Pod) bool { return pod.Spec.Containers[0].Image == "localhost/stoker:"+next })
	}
	finish()
}

// waitHeartbeat waits until the running agent has observed and written: the status file is signed after that.
func (m *machine) waitHeartbeat(t *testing.T) {
	t.Helper()
	path := filepath.Join(m.disk, "status", "agent.json")
	var first []byte
	wait(t, "the heartbeat on "+m.name+" to change", func(context.Context) (bool, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if first == nil {
			first = content
		}
		return string(first) != string(content), nil
	})
}

// runsConfined looks at the agents' processes from outside: what the chart asks for is what the kernel does.
func (l *life) runsConfined(t *testing.T) {
	for _, m := range []*machine{l.first, l.second} {
		pids := m.agentProcesses(t)
		if len(pids) == 0 {
			t.Fatalf("no process of the agent on %s was found", m.name)
		}
		for _, pid := range pids {
			checkConfined(t, pid)
		}
	}
}

func checkConfined(t *testing.T, pid string) {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000", "CapBnd:\t0000000000000000",
		"CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t0\t0\t0\t0",
	} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("process %s has no %q in its status:\n%s", pid, want, status)
		}
	}
	mounts, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	root, _, _ := strings.Cut(string(mounts), "\n")
	if fields := strings.Fields(root); len(fields) < 6 || fields[4] != "/" || !strings.HasPrefix(fields[5], "ro,") {
		t.Errorf("the root of process %s is not read-only: %s", pid, root)
	}
}

// agentProcesses are the ids of the processes `stoker agent` of a node.
func (m *machine) agentProcesses(t *testing.T) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(line), "/usr/local/bin/stoker\x00agent\x00") && strings.Contains(string(line), "\x00--node-name="+m.name+"\x00") {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}
