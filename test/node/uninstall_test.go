//go:build e2e && linux

package node_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
)

// uninstalls removes the release and looks for anything of it.
func (l *life) uninstalls(t *testing.T) {
	for _, namespace := range []string{"serving", "strict"} {
		err := l.client.AppsV1().Deployments(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	l.runHelm(t, "uninstall", release, "--namespace", systemNamespace, "--timeout", "3m")
	for _, m := range []*machine{l.first, l.second} {
		m.checkUnlabelled(t)
	}
	wait(t, "every pod to be gone", func(ctx context.Context) (bool, error) {
		pods, err := l.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0, err
	})
	wait(t, "every object of the release to be gone", func(ctx context.Context) (bool, error) {
		left, err := l.objectsOfRelease(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %q", left)
		}
		return err == nil, err
	})
	for _, m := range []*machine{l.first, l.second} {
		m.checkNothingRuns(t)
	}
}

// checkUnlabelled looks for keys of Stoker's on the Node.
func (m *machine) checkUnlabelled(t *testing.T) {
	t.Helper()
	n, err := m.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys := maps.Clone(n.Labels)
	maps.Copy(keys, n.Annotations)
	for key, value := range keys {
		if strings.Contains(key, "stoker.dev/") {
			t.Errorf("%s still has %s=%s", m.name, key, value)
		}
	}
}

// checkNothingRuns looks for processes of the agent and for mounts of pods.
func (m *machine) checkNothingRuns(t *testing.T) {
	t.Helper()
	if pids := m.agentProcesses(t); len(pids) > 0 {
		t.Errorf("on %s agents still run: %q", m.name, pids)
	}
	mounts, err := m.MountInfo()
	if err != nil {
		t.Fatal(err)
	}
	stores := 0
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/kubelet/pods/") {
			t.Errorf("on %s still mounted: %s", m.name, line)
		}
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == storePath() {
			stores++
		}
	}
	if stores != 1 {
		t.Errorf("on %s the store is mounted %d times; only the node itself has it", m.name, stores)
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
