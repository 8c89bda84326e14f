//go:build e2e && linux

package node_test

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stoker-project/stoker/test/charts"
)

const sealed = "sealed"

// fillsAVolume has the chart's Job fill a claim, and then agents and pods mount read-only what it has filled. There is no
// CSI driver here: a directory of the first node stands in for its volumes, and everything else is the chart's.
func (l *life) fillsAVolume(t *testing.T) {
	dir := makeDir(t, filepath.Join(l.first.disk, "filled"))
	l.claimDirectory(t, "filled", filepath.Join(storePath(), "filled"))
	objs := l.renderSealed(t, "{}")
	if err := charts.Apply(t.Context(), l.cluster.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	wait(t, "the Job to complete", func(ctx context.Context) (bool, error) {
		jobs, err := l.client.BatchV1().Jobs(systemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=stoker-populate"})
		if err != nil || len(jobs.Items) != 1 {
			return false, err
		}
		for _, c := range jobs.Items[0].Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
				t.Fatalf("the Job has failed: %s", c.Message)
			}
		}
		return jobs.Items[0].Status.Succeeded == 1, nil
	})
	l.first.checkUnlabelled(t)
	before := listing(t, dir)

	objs = l.renderSealed(t, "{csi: {driver: disk.csi.example, volumeHandle: filled}}")
	for _, obj := range objs {
		if obj.GetKind() != "PersistentVolume" {
			continue
		}
		unstructured.RemoveNestedField(obj.Object, "spec", "csi")
		if err := unstructured.SetNestedField(obj.Object, filepath.Join(storePath(), "filled"), "spec", "hostPath", "path"); err != nil {
			t.Fatal(err)
		}
	}
	if err := charts.Apply(t.Context(), l.cluster.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	l.first.waitLabel(t, "warm.stoker.dev/one", "shared")
	l.serve(t, "serving", "sealed", "one", nil)
	pod, s := l.seenBy(t, "serving", "sealed")
	checkSeen(t, s, l.one)
	if pod.Spec.NodeName != l.first.name {
		t.Errorf("the pod is on %s; %s is the warm node", pod.Spec.NodeName, l.first.name)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the volume that nobody writes was\n%s\nand is\n%s", before, after)
	}
	l.removeSealed(t)
}

// renderSealed renders the chart for a volume that nobody writes.
func (l *life) renderSealed(t *testing.T, source string) []*unstructured.Unstructured {
	t.Helper()
	objs, err := charts.Render(fmt.Appendf(nil, `
image: {repository: localhost/stoker, tag: e2e, pullPolicy: Never}
models: [{name: one, source: "hf://team/one@main"}]
namespaces: [serving]
nodeSelector: {pool: large, nvidia.com/gpu.present: null}
gpus: simulated:dgxh200
extraEnv: [{name: HF_ENDPOINT, value: "%s"}]
volume: {mode: readOnly, readOnly: {source: %s}}
populate: {enabled: true, claim: filled, nodeSelector: {pool: large}, resources: {requests: {cpu: 100m}}}
`, l.hub.URL(), source), sealed, systemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// claimDirectory makes a claim that one node at a time may write, on a directory.
func (l *life) claimDirectory(t *testing.T, name, path string) {
	t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	class := ""
	_, err := l.client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			ClaimRef:               &corev1.ObjectReference{Namespace: systemNamespace, Name: name},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.client.CoreV1().PersistentVolumeClaims(systemNamespace).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, VolumeName: name,
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// removeSealed ends every pod that has the volume mounted.
func (l *life) removeSealed(t *testing.T) {
	t.Helper()
	apps := l.client.AppsV1()
	if err := apps.Deployments("serving").Delete(t.Context(), "sealed", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := apps.Deployments(systemNamespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := apps.DaemonSets(systemNamespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	foreground := metav1.DeletePropagationForeground
	if err := l.client.BatchV1().Jobs(systemNamespace).DeleteCollection(t.Context(), metav1.DeleteOptions{PropagationPolicy: &foreground}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, "every pod to be gone", func(ctx context.Context) (bool, error) {
		pods, err := l.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0, err
	})
}

// listing is all that a directory holds, with times.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(&b, "%s %s %d %s\n", path, info.Mode(), info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
