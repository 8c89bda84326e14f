package inject

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// workloads are of the kinds whose controllers run in the test cluster.
const workloads = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s-deployment, namespace: with}
spec: {replicas: 1, selector: {matchLabels: {app: %[1]s-deployment}}, template: {metadata: {labels: {app: %[1]s-deployment, stoker.dev/model: llama}}, spec: {containers: [{name: vllm, image: vllm}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s-statefulset, namespace: with}
spec: {replicas: 1, serviceName: x, selector: {matchLabels: {app: %[1]s-statefulset}}, template: {metadata: {labels: {app: %[1]s-statefulset, stoker.dev/model: llama}}, spec: {containers: [{name: vllm, image: vllm}]}}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: %[1]s-replicaset, namespace: with}
spec: {replicas: 1, selector: {matchLabels: {app: %[1]s-replicaset}}, template: {metadata: {labels: {app: %[1]s-replicaset, stoker.dev/model: llama}}, spec: {containers: [{name: vllm, image: vllm}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: %[1]s-job, namespace: with}
spec: {template: {metadata: {labels: {app: %[1]s-job, stoker.dev/model: llama}}, spec: {restartPolicy: Never, containers: [{name: vllm, image: vllm}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: %[1]s-cronjob, namespace: with}
spec: {schedule: "0 0 30 2 *", jobTemplate: {spec: {template: {metadata: {labels: {stoker.dev/model: llama}}, spec: {restartPolicy: Never, containers: [{name: vllm, image: vllm}]}}}}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: %[1]s-rc, namespace: with}
spec: {replicas: 1, selector: {app: %[1]s-rc}, template: {metadata: {labels: {app: %[1]s-rc, stoker.dev/model: llama}}, spec: {containers: [{name: vllm, image: vllm}]}}}
`

// Pods that real controllers make get it from the policy, and those of a
// manifest that stoker inject has written have it already: the same, once.
func (f *fixture) testControllers() {
	plain := fmt.Sprintf(workloads, "plain")
	var written bytes.Buffer
	found, err := inject.File(&written, []byte(fmt.Sprintf(workloads, "written")), inject.YAML, options())
	if err != nil || found.Injected != 6 {
		f.Fatalf("injected %+v: %v", found, err)
	}
	for _, text := range []string{plain, written.String()} {
		var objs []*unstructured.Unstructured
		for doc := range strings.SplitSeq(text, "\n---\n") {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
				f.Fatal(err)
			}
			objs = append(objs, u)
		}
		if err := charts.Apply(f.Context(), f.cluster.RESTConfig(), objs); err != nil {
			f.Fatal(err)
		}
	}
	for _, kind := range []string{"deployment", "statefulset", "replicaset", "job", "rc"} {
		one, two := f.podOf("plain-"+kind), f.podOf("written-"+kind)
		for _, p := range []*corev1.Pod{one, two} {
			if len(p.Spec.InitContainers) != 1 || len(p.Spec.Containers[0].Env) != 3 || len(p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) != 4 {
				f.Errorf("%s was not injected once: %s", p.Name, f.shown(p))
			}
		}
	}
}

// podOf waits for a pod of an app.
func (f *fixture) podOf(app string) *corev1.Pod {
	f.Helper()
	var found *corev1.Pod
	err := cluster.WaitFor(f.Context(), "a pod of "+app, func(ctx context.Context) (bool, error) {
		list, err := f.client.CoreV1().Pods(with).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil || len(list.Items) == 0 {
			return false, err
		}
		found = &list.Items[0]
		return true, nil
	})
	if err != nil {
		f.Fatal(err)
	}
	return found
}

// A preference keeps no pod from a cold node; a requirement does, until the
// node is warm and a replica fits.
func (f *fixture) testScheduled() {
	ctx := f.Context()
	if _, err := f.cluster.AddNode(ctx, cluster.NodeSpec{Name: "cold"}); err != nil {
		f.Fatal(err)
	}
	create := func(name, shape string) {
		p := f.shape(shape)
		p.Name = name
		if _, err := f.client.CoreV1().Pods(with).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			f.Fatal(err)
		}
	}
	create("anywhere", "plain")
	create("warm-only", "required")
	f.waitBound("anywhere", "cold")
	err := cluster.WaitFor(ctx, "the scheduler to refuse the cold node", func(ctx context.Context) (bool, error) {
		p, err := f.client.CoreV1().Pods(with).Get(ctx, "warm-only", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := f.cluster.AddNode(ctx, cluster.NodeSpec{Name: "full", Labels: map[string]string{"warm.stoker.dev/llama": "disk", "fits.stoker.dev/llama": "0"}}); err != nil {
		f.Fatal(err)
	}
	if _, err := f.cluster.AddNode(ctx, cluster.NodeSpec{Name: "warm", Labels: map[string]string{"warm.stoker.dev/llama": "disk", "fits.stoker.dev/llama": "2"}}); err != nil {
		f.Fatal(err)
	}
	f.waitBound("warm-only", "warm")
}

func (f *fixture) waitBound(pod, node string) {
	f.Helper()
	err := cluster.WaitFor(f.Context(), pod+" to be bound to "+node, func(ctx context.Context) (bool, error) {
		p, err := f.client.CoreV1().Pods(with).Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if p.Spec.NodeName != "" && p.Spec.NodeName != node {
			f.Fatalf("%s was bound to %s", pod, p.Spec.NodeName)
		}
		return p.Spec.NodeName == node, nil
	})
	if err != nil {
		f.Fatal(err)
	}
}
