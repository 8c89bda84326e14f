package charts

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var releaseLabels = map[string]string{"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": "qwen"}

// Values of the pod that the golden files have not, or have in another way.
func TestVLLMPodFollowsItsValues(t *testing.T) {
	spread := func(skew int32, key string, how corev1.UnsatisfiableConstraintAction, labels map[string]string) corev1.TopologySpreadConstraint {
		return corev1.TopologySpreadConstraint{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: how, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}
	}
	gpus := resource.MustParse("2")
	for name, tc := range map[string]struct {
		values string
		got    func(d appsv1.DeploymentSpec) any
		want   any
	}{
		"spread over hosts": {
			leastVLLM + "spread: host", func(d appsv1.DeploymentSpec) any { return d.Template.Spec.TopologySpreadConstraints },
			[]corev1.TopologySpreadConstraint{spread(1, "kubernetes.io/hostname", "ScheduleAnyway", releaseLabels)},
		},
		"spread by constraints": {
			leastVLLM + "topologySpreadConstraints: [{maxSkew: 2, topologyKey: a, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 1, topologyKey: b, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {c: d}}}]",
			func(d appsv1.DeploymentSpec) any { return d.Template.Spec.TopologySpreadConstraints },
			[]corev1.TopologySpreadConstraint{spread(2, "a", "DoNotSchedule", releaseLabels), spread(1, "b", "ScheduleAnyway", map[string]string{"c": "d"})},
		},
		"recreated": {
			leastVLLM + "rollout: {type: Recreate}", func(d appsv1.DeploymentSpec) any { return d.Strategy },
			appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
		},
		"GPUs as a resource": {
			leastVLLM + "vllm: {tensorParallel: 2}", func(d appsv1.DeploymentSpec) any { return d.Template.Spec.Containers[0].Resources.Limits },
			corev1.ResourceList{"nvidia.com/gpu": gpus},
		},
		"GPUs by a claim": {
			leastVLLM + "gpu: {resource: ''}\nresourceClaims: [{name: gpus, resourceClaimTemplateName: two}]",
			func(d appsv1.DeploymentSpec) any {
				pod := d.Template.Spec
				fit := pod.InitContainers[slices.IndexFunc(pod.InitContainers, func(c corev1.Container) bool { return c.Name == "stoker-fit" })]
				return []any{pod.ResourceClaims[0].Name, *pod.ResourceClaims[0].ResourceClaimTemplateName, pod.Containers[0].Resources.Claims, fit.Resources.Claims, len(pod.Containers[0].Resources.Limits), len(fit.Resources.Limits)}
			},
			[]any{"gpus", "two", []corev1.ResourceClaim{{Name: "gpus"}}, []corev1.ResourceClaim{{Name: "gpus"}}, 0, 2},
		},
		"an account of its own": {
			leastVLLM + "serviceAccount: {create: true}", func(d appsv1.DeploymentSpec) any {
				return []any{d.Template.Spec.ServiceAccountName, *d.Template.Spec.AutomountServiceAccountToken}
			},
			[]any{"qwen-vllm", false},
		},
		"another's account": {
			leastVLLM + "serviceAccount: {name: theirs}", func(d appsv1.DeploymentSpec) any { return d.Template.Spec.ServiceAccountName }, "theirs",
		},
		"init containers without Stoker": {
			"stoker: {enabled: false}\nmodel: {name: a, source: 'hf://o/n'}\ninitContainers: [{name: a, image: b}]",
			func(d appsv1.DeploymentSpec) any { return d.Template.Spec.InitContainers },
			[]corev1.Container{{Name: "a", Image: "b"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.got(vllmDeployment(t, vllmObjects(t, tc.values)).Spec)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.values, diff)
			}
		})
	}
}
