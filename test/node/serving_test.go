//go:build e2e && linux

package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// seen is what test/node/tool tells about the inside of its container.
type seen struct {
	Started time.Time         `json:"started"`
	Opened  time.Time         `json:"opened"`
	Model   string            `json:"model"`
	Files   map[string]string `json:"files"`
	Bytes   int64             `json:"bytes"`
	Seconds float64           `json:"seconds"`
	Writes  map[string]string `json:"writes"`
	Env     map[string]string `json:"env"`
	UID     int               `json:"uid"`
}

// serve runs a Deployment whose pods do nothing about Stoker but name the model by the one label. nodeSelector may be nil.
func (w *world) serve(t *testing.T, namespace, name, model string, nodeSelector map[string]string) {
	t.Helper()
	labels := map[string]string{"app": name}
	podLabels := map[string]string{"app": name, "stoker.dev/model": model}
	_, err := w.client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: podLabels},
				Spec:       podSpec(nodeSelector, "read"),
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// podSpec is a pod that the restricted level admits, with one container that runs the tool.
func podSpec(nodeSelector map[string]string, args ...string) corev1.PodSpec {
	yes, no := true, false
	uid := int64(1000)
	return corev1.PodSpec{
		NodeSelector: nodeSelector,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &uid,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "server", Image: toolImage, ImagePullPolicy: corev1.PullNever, Args: args,
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}},
				PeriodSeconds: 1,
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
	}
}

// seenBy waits until a Deployment's pod is ready and has told what it saw.
func (w *world) seenBy(t *testing.T, namespace, name string) (corev1.Pod, seen) {
	t.Helper()
	var pod corev1.Pod
	var s seen
	wait(t, "a ready pod of "+namespace+"/"+name, func(ctx context.Context) (bool, error) {
		pods, err := w.podsOf(ctx, namespace, name)
		if err != nil || len(pods) != 1 {
			return false, err
		}
		pod = pods[0]
		// Of a node that was halted, the API server says what was true before.
		s, err = ask(ctx, &pod)
		return err == nil && ready(&pod), err
	})
	return pod, s
}

// podsOf are a Deployment's pods.
func (w *world) podsOf(ctx context.Context, namespace, name string) ([]corev1.Pod, error) {
	pods, err := w.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// ask asks a pod what it saw.
func ask(ctx context.Context, pod *corev1.Pod) (seen, error) {
	var body bytes.Buffer
	if err := get(ctx, "http://"+net.JoinHostPort(pod.Status.PodIP, "8080")+"/", &body); err != nil {
		return seen{}, err
	}
	var s seen
	err := json.Unmarshal(body.Bytes(), &s)
	return s, err
}

// get copies what a URL answers. It waits for five seconds at most.
func get(ctx context.Context, url string, to io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(to, response.Body)
	return err
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// checkSeen holds what a container saw against the files that were put on the Hub, and what it was not to do.
func checkSeen(t *testing.T, s seen, tree fetchertest.Tree) {
	t.Helper()
	want := map[string]string{}
	var bytes int64
	for path, content := range tree {
		sum, err := content.SHA256()
		if err != nil {
			t.Fatal(err)
		}
		want[path] = sum
		bytes += content.Size()
	}
	if diff := cmp.Diff(want, s.Files); diff != "" || s.Bytes != bytes {
		t.Errorf("the container read %d bytes of %d; files:\n%s", s.Bytes, bytes, diff)
	}
	if len(s.Writes) < 5 {
		t.Errorf("the container tried only %d ways to write", len(s.Writes))
	}
	for what, failure := range s.Writes {
		if failure == "" {
			t.Errorf("the container could %s", what)
		}
	}
	for key, value := range map[string]string{"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_CACHE": "/models/hub"} {
		if s.Env[key] != value {
			t.Errorf("the container has %s=%q, want %q", key, s.Env[key], value)
		}
	}
	t.Logf("%d bytes at %s read and hashed in %.2f s, as uid %d", s.Bytes, s.Model, s.Seconds, s.UID)
}
