package charts

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// workloads gives the pods of everything that runs, by the name of their only
// container: agent, sweeper, populate and unlabel.
func workloads(t *testing.T, objs []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	t.Helper()
	pods := map[string]corev1.PodTemplateSpec{}
	for _, obj := range objs {
		template, found, err := unstructured.NestedMap(obj.Object, "spec", "template")
		if err != nil || !found {
			continue
		}
		content, err := yaml.Marshal(template)
		if err != nil {
			t.Fatal(err)
		}
		var pod corev1.PodTemplateSpec
		if err := yaml.UnmarshalStrict(content, &pod); err != nil {
			t.Fatal(err)
		}
		pods[pod.Spec.Containers[0].Name] = pod
	}
	return pods
}

// allWorkloads renders all four.
func allWorkloads(t *testing.T, change func(map[string]any)) map[string]corev1.PodTemplateSpec {
	t.Helper()
	pods := workloads(t, everything(t, with(t, readOnlyValues(t), change)))
	if got := slices.Sorted(maps.Keys(pods)); !slices.Equal(got, []string{"agent", "populate", "sweeper", "unlabel"}) {
		t.Fatalf("the workloads are %q", got)
	}
	return pods
}

// What is set for the pods of one workload reaches those, and no others.
func TestPodValues(t *testing.T) {
	for values, want := range map[string]string{"": "agent", "sweeper": "sweeper", "populate": "populate", "uninstall": "unlabel"} {
		pods := allWorkloads(t, func(all map[string]any) {
			if values != "" {
				below, ok := all[values].(map[string]any)
				if !ok {
					below = map[string]any{}
					all[values] = below
				}
				all = below
			}
			all["podLabels"] = map[string]any{"team": "platform"}
			all["podAnnotations"] = map[string]any{"example.com/a": "b"}
			all["priorityClassName"] = "high"
		})
		for name, pod := range pods {
			set := name == want
			if has := pod.Labels["team"] == "platform"; has != set {
				t.Errorf("%s: values of %q: label is there: %v", name, values, has)
			}
			if has := pod.Annotations["example.com/a"] == "b"; has != set {
				t.Errorf("%s: values of %q: annotation is there: %v", name, values, has)
			}
			if has := pod.Spec.PriorityClassName == "high"; has != set {
				t.Errorf("%s: values of %q: priority is there: %v", name, values, has)
			}
		}
	}
}

// A proxy beside a Job's container runs on when that has ended, and the Job
// never completes. So none is injected, unless somebody asks for it.
func TestJobsEndInAMesh(t *testing.T) {
	for name, pod := range allWorkloads(t, func(map[string]any) {}) {
		job := name == "populate" || name == "unlabel"
		if istio, linkerd := pod.Labels["sidecar.istio.io/inject"] == "false", pod.Annotations["linkerd.io/inject"] == "disabled"; istio != job || linkerd != job {
			t.Errorf("%s: kept out of Istio's mesh: %v, of Linkerd's: %v", name, istio, linkerd)
		}
	}
	pods := allWorkloads(t, func(all map[string]any) {
		all["uninstall"] = map[string]any{"podLabels": map[string]any{"sidecar.istio.io/inject": nil}}
	})
	if value, there := pods["unlabel"].Labels["sidecar.istio.io/inject"]; there {
		t.Errorf("null leaves sidecar.istio.io/inject at %q", value)
	}
}

// Pods that speak to sources, and only those, may share the node's network. A
// pod that does resolves the cluster's names all the same.
func TestHostNetwork(t *testing.T) {
	for _, tc := range []struct {
		hostNetwork bool
		dnsPolicy   string
		want        corev1.DNSPolicy
	}{
		{false, "", ""},
		{true, "", corev1.DNSClusterFirstWithHostNet},
		{true, "Default", corev1.DNSDefault},
		{false, "Default", corev1.DNSDefault},
	} {
		pods := allWorkloads(t, func(all map[string]any) { all["hostNetwork"], all["dnsPolicy"] = tc.hostNetwork, tc.dnsPolicy })
		for name, pod := range pods {
			asks := name == "agent" || name == "populate"
			want := tc.want
			if !asks {
				want = ""
			}
			if pod.Spec.HostNetwork != (tc.hostNetwork && asks) || pod.Spec.DNSPolicy != want {
				t.Errorf("%s with hostNetwork %v and %q: shares it: %v, DNS policy %q", name, tc.hostNetwork, tc.dnsPolicy, pod.Spec.HostNetwork, pod.Spec.DNSPolicy)
			}
		}
	}
}

// Rights and the account may be made by others; what uses them stays the same.
func TestRightsMadeByOthers(t *testing.T) {
	for name, values := range manyValues(t) {
		rest := slices.DeleteFunc(everything(t, values), func(obj *unstructured.Unstructured) bool {
			return obj.GroupVersionKind().Group == rbacv1.GroupName
		})
		got := manifest(t, everything(t, at(t, values, "rbac", map[string]any{"create": false})))
		if diff := cmp.Diff(manifest(t, rest), got); diff != "" {
			t.Errorf("%s: rbac.create: false leaves out something else than roles and bindings (-want +got):\n%s", name, diff)
		}
		account := map[string]any{"create": false, "name": "theirs"}
		objs := everything(t, at(t, values, "serviceAccount", account))
		for _, obj := range objs {
			if obj.GetKind() == "ServiceAccount" && obj.GetName() == "theirs" {
				t.Errorf("%s: the account is made all the same", name)
			}
		}
		if got := workloads(t, objs)["agent"].Spec.ServiceAccountName; got != "theirs" {
			t.Errorf("%s: agents run as %q", name, got)
		}
	}
	_, err := Render([]byte("serviceAccount: {create: false}"), "rel", "gpu-system")
	if err == nil || !strings.Contains(err.Error(), "serviceAccount.create is false, but serviceAccount.name is empty") {
		t.Errorf("an account without a name is answered with %v", err)
	}
}

// selects says which workloads a selector takes.
func selects(t *testing.T, selector metav1.LabelSelector, pods map[string]corev1.PodTemplateSpec) []string {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		t.Fatal(err)
	}
	var taken []string
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		if s.Matches(labels.Set(pods[name].Labels)) {
			taken = append(taken, name)
		}
	}
	return taken
}

// The policy holds every pod of the chart, and Prometheus finds those that
// answer; neither takes a pod of another release.
func TestSelectorsTakeThePodsOfTheRelease(t *testing.T) {
	values := with(t, readOnlyValues(t), func(all map[string]any) {
		all["networkPolicy"] = map[string]any{"enabled": true}
		all["monitoring"] = map[string]any{"podMonitor": map[string]any{"enabled": true}}
	})
	objs := everything(t, values)
	var policy networkingv1.NetworkPolicy
	find(t, objs, "NetworkPolicy", "gpu-system/rel-stoker", &policy)
	var monitor struct {
		Spec struct{ Selector metav1.LabelSelector }
	}
	for _, obj := range objs {
		if obj.GetKind() == "PodMonitor" {
			content, err := yaml.Marshal(obj.Object)
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal(content, &monitor); err != nil {
				t.Fatal(err)
			}
		}
	}
	others, err := Render(values, "other", "gpu-system")
	if err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		selector metav1.LabelSelector
		want     []string
	}{
		"NetworkPolicy": {policy.Spec.PodSelector, []string{"agent", "populate", "sweeper", "unlabel"}},
		"PodMonitor":    {monitor.Spec.Selector, []string{"agent", "sweeper"}},
	} {
		if got := selects(t, tc.selector, workloads(t, objs)); !slices.Equal(got, tc.want) {
			t.Errorf("the %s takes %q, want %q", what, got, tc.want)
		}
		if got := selects(t, tc.selector, workloads(t, others)); len(got) != 0 {
			t.Errorf("the %s takes %q of another release", what, got)
		}
	}
	if len(policy.Spec.PolicyTypes) != 1 || len(policy.Spec.Ingress) != 1 || len(policy.Spec.Ingress[0].From) != 0 || policy.Spec.Ingress[0].Ports[0].Port.StrVal != "http" {
		t.Errorf("by default the policy is %+v", policy.Spec)
	}
}
