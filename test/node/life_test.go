//go:build e2e && linux

package node_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
)

// watchLabels looks at every version of the Node until the returned function is called, which fails the test if one of
// them lacked one of the labels that it had at the beginning, or said something else.
func (l *life) watchLabels(t *testing.T, prefixes ...string) (finish func()) {
	t.Helper()
	n, err := l.client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	promised := map[string]string{}
	for key, value := range n.Labels {
		for _, prefix := range prefixes {
			if strings.HasPrefix(key, prefix) {
				promised[key] = value
			}
		}
	}
	if len(promised) == 0 {
		t.Fatalf("the Node has no labels %q to watch", prefixes)
	}
	watching, err := l.client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + nodeName, ResourceVersion: n.ResourceVersion,
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
					wrong = append(wrong, fmt.Sprintf("version %s has %s=%q, not %q", seen.ResourceVersion, key, seen.Labels[key], value))
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
			l.patchNode(t, `{"metadata":{"annotations":{"`+mark+`":`+value+`}}}`)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("%d versions of the Node kept %d labels", versions, len(promised))
		for _, w := range wrong {
			t.Error(w)
		}
	}
}

// upgradesImage takes the agent to another image while every version of the Node is looked at.
func (l *life) upgradesImage(t *testing.T) {
	before := l.agentPod(t)
	if err := l.node.TagImage(t.Context(), image, "localhost/stoker:e2e-next"); err != nil {
		t.Fatal(err)
	}
	finish := l.watchLabels(t, "warm.stoker.dev/", "rev.stoker.dev/")
	l.list.tag = "e2e-next"
	l.install(t, l.list)
	l.wait(t, "an agent of the other image", func(ctx context.Context) (bool, error) {
		pods, err := l.agentPods(ctx)
		if err != nil || len(pods) != 1 {
			return false, err
		}
		return pods[0].UID != before.UID && pods[0].Spec.Containers[0].Image == "localhost/stoker:e2e-next" && ready(&pods[0]), nil
	})
	l.waitHeartbeat(t)
	finish()
}

// waitHeartbeat waits until the running agent has observed and written: the status file is signed after that.
func (l *life) waitHeartbeat(t *testing.T) {
	t.Helper()
	path := filepath.Join(storePath(), "status", "agent.json")
	var first []byte
	l.wait(t, "the agent's heartbeat to change", func(context.Context) (bool, error) {
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

// runsConfined looks at the agent's process from outside: what the chart asks for is what the kernel does.
func (l *life) runsConfined(t *testing.T) {
	pids := l.agentProcesses(t)
	if len(pids) == 0 {
		t.Fatal("no process of the agent was found")
	}
	for _, pid := range pids {
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t0\t0\t0\t0",
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
}

// agentProcesses are the ids of the processes `stoker agent`.
func (l *life) agentProcesses(t *testing.T) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(line), "/usr/local/bin/stoker\x00agent\x00") {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

// uninstalls removes the release and looks for anything of it.
func (l *life) uninstalls(t *testing.T) {
	for _, namespace := range []string{"serving", "strict"} {
		err := l.client.AppsV1().Deployments(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	l.runHelm(t, "uninstall", release, "--namespace", systemNamespace, "--timeout", "3m")
	n, err := l.client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keys := maps.Clone(n.Labels)
	maps.Copy(keys, n.Annotations)
	for key, value := range keys {
		if strings.Contains(key, "stoker.dev/") {
			t.Errorf("the Node still has %s=%s", key, value)
		}
	}
	l.wait(t, "every pod to be gone", func(ctx context.Context) (bool, error) {
		pods, err := l.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0, err
	})
	l.wait(t, "every object of the release to be gone", func(ctx context.Context) (bool, error) {
		left, err := l.objectsOfRelease(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %q", left)
		}
		return err == nil, err
	})
	if pids := l.agentProcesses(t); len(pids) > 0 {
		t.Errorf("agents still run: %q", pids)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, storePath()) || strings.Contains(line, "/kubelet/pods/") {
			t.Errorf("still mounted: %s", line)
		}
	}
}

// objectsOfRelease lists objects of any kind that carry the release's label.
func (l *life) objectsOfRelease(ctx context.Context) ([]string, error) {
	config := l.cluster.RESTConfig()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	lists, err := discovery.ServerPreferredResources(l.client.Discovery())
	if err != nil {
		return nil, err
	}
	var left []string
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, resource := range list.APIResources {
			if !strings.Contains(strings.Join(resource.Verbs, " "), "list") {
				continue
			}
			objects, err := client.Resource(group.WithResource(resource.Name)).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
			if err != nil {
				return nil, err
			}
			for _, object := range objects.Items {
				left = append(left, resource.Kind+" "+object.GetNamespace()+"/"+object.GetName())
			}
		}
	}
	return left, nil
}
