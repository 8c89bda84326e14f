package charts

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// sweeperPod gives the pod template of the rendered sweeper.
func sweeperPod(t *testing.T, values []byte) corev1.PodTemplateSpec {
	t.Helper()
	for _, obj := range renderAll(t, values) {
		if obj.GetKind() == "Deployment" {
			var d appsv1.Deployment
			find(t, []*unstructured.Unstructured{obj}, "Deployment", objectKey(obj), &d)
			return d.Spec.Template
		}
	}
	t.Fatal("no Deployment rendered")
	return corev1.PodTemplateSpec{}
}

// unlabelPod gives the pod of the post-delete hook.
func unlabelPod(t *testing.T, values []byte) corev1.PodSpec {
	t.Helper()
	for _, obj := range renderHooks(t, values) {
		if obj.GetKind() == "Job" {
			var j batchv1.Job
			find(t, []*unstructured.Unstructured{obj}, "Job", objectKey(obj), &j)
			return j.Spec.Template.Spec
		}
	}
	t.Fatal("no Job among the hooks")
	return corev1.PodSpec{}
}

// A sweeper that does not find its agents would take every label back; one that
// is selected by the agents' labels would take its own pod for an agent.
func TestSweeperSelectsExactlyTheAgents(t *testing.T) {
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t)} {
		sweeper := sweeperPod(t, values)
		var selector labels.Selector
		namespace := ""
		for _, arg := range sweeper.Spec.Containers[0].Args {
			if text, ok := strings.CutPrefix(arg, "--selector="); ok {
				parsed, err := labels.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				selector = parsed
			}
			if text, ok := strings.CutPrefix(arg, "--namespace="); ok {
				namespace = text
			}
		}
		if selector == nil || namespace != "gpu-system" {
			t.Fatalf("%s values: arguments %q", name, sweeper.Spec.Containers[0].Args)
		}
		for _, obj := range renderAll(t, values) {
			if obj.GetKind() != "DaemonSet" {
				continue
			}
			var ds appsv1.DaemonSet
			find(t, []*unstructured.Unstructured{obj}, "DaemonSet", objectKey(obj), &ds)
			if !selector.Matches(labels.Set(ds.Spec.Template.Labels)) {
				t.Errorf("%s values: the sweeper does not find pods with %v", name, ds.Spec.Template.Labels)
			}
			own := labels.SelectorFromSet(ds.Spec.Selector.MatchLabels)
			if own.String() != selector.String() {
				t.Errorf("%s values: the DaemonSet selects %s, the sweeper %s", name, own, selector)
			}
			if own.Matches(labels.Set(sweeper.Labels)) {
				t.Errorf("%s values: the sweeper's pod looks like an agent's: %v", name, sweeper.Labels)
			}
		}
		for _, obj := range renderHooks(t, values) {
			if obj.GetKind() == "Job" {
				template, _, err := unstructured.NestedStringMap(obj.Object, "spec", "template", "metadata", "labels")
				if err != nil || selector.Matches(labels.Set(template)) {
					t.Errorf("%s values: the Job's pod looks like an agent's: %v, %v", name, template, err)
				}
			}
		}
	}
}

// Neither pod needs anything of its node.
func TestSweeperAndHookAreRestricted(t *testing.T) {
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t)} {
		for _, pod := range []corev1.PodSpec{sweeperPod(t, values).Spec, unlabelPod(t, values)} {
			c := pod.Containers[0]
			sc := c.SecurityContext
			switch {
			case len(pod.Containers) != 1 || len(pod.InitContainers) != 0 || len(pod.Volumes) != 0:
				t.Errorf("%s values, %s: more than one container, or volumes", name, c.Name)
			case pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.RuntimeClassName != nil:
				t.Errorf("%s values, %s: it shares something of the host", name, c.Name)
			case !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
				t.Errorf("%s values, %s: %+v", name, c.Name, pod.SecurityContext)
			case *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || sc.Privileged != nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(sc.Capabilities.Add) != 0:
				t.Errorf("%s values, %s: %+v", name, c.Name, sc)
			case c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero():
				t.Errorf("%s values, %s: %+v", name, c.Name, c.Resources)
			}
		}
	}
}

// Rights and policy exist before the Job runs, and nothing of the hook stays.
func TestHookOrder(t *testing.T) {
	var kinds []string
	for _, obj := range renderHooks(t, nil) {
		kinds = append(kinds, obj.GetKind())
		if got := obj.GetAnnotations()["helm.sh/hook-delete-policy"]; got != "before-hook-creation,hook-succeeded" {
			t.Errorf("%s is deleted %q", obj.GetKind(), got)
		}
	}
	at := func(kind string) int { return slices.Index(kinds, kind) }
	if len(kinds) != 6 || at("Job") != 5 || at("ValidatingAdmissionPolicyBinding") > at("ClusterRoleBinding") || at("ValidatingAdmissionPolicy") > at("ClusterRole") {
		t.Errorf("the hook creates %q", kinds)
	}
}

func TestSweeperAndHookCanBeSwitchedOff(t *testing.T) {
	for _, obj := range renderAll(t, []byte("sweeper: {enabled: false}")) {
		if strings.Contains(obj.GetName(), "sweeper") {
			t.Errorf("%s %s is there", obj.GetKind(), objectKey(obj))
		}
	}
	if hooks := renderHooks(t, []byte("uninstall: {removeLabels: false}")); len(hooks) != 0 {
		t.Errorf("%d objects of the hook are there", len(hooks))
	}
}

// A Job's name becomes a label, which has 63 characters.
func TestLongNames(t *testing.T) {
	name := strings.Repeat("a", 63)
	values := []byte("fullnameOverride: " + name)
	for _, obj := range append(renderAll(t, values), renderHooks(t, values)...) {
		switch obj.GetKind() {
		case "Deployment", "Job", "ServiceAccount", "DaemonSet":
			if len(obj.GetName()) > 63 {
				t.Errorf("%s %s has %d characters", obj.GetKind(), obj.GetName(), len(obj.GetName()))
			}
		}
	}
}
