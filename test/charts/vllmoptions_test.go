package charts

import (
	"slices"
	"strings"
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

// ownOptions are those of vLLM that the chart sets, whatever its values are.
var ownOptions = map[string]string{
	"--model": "model.name", "--served-model-name": "model.servedName", "--revision": "model.source", "--port": "port",
	"--tensor-parallel-size": "vllm.tensorParallel", "--pipeline-parallel-size": "vllm.pipelineParallel",
	"--gpu-memory-utilization": "vllm.gpuMemoryUtilization", "--kv-cache-dtype": "vllm.kvCacheDtype", "--max-model-len": "vllm.maxModelLen",
	"--nnodes": "multiNode.size", "--node-rank": "multiNode.size", "--master-addr": "multiNode.size", "--headless": "multiNode.size",
}

// TestVLLMRefusesItsOwnOptions: an option that the chart sets is refused by every name, and by the shortest
// beginning that no other option of vLLM has; every other option passes.
func TestVLLMRefusesItsOwnOptions(t *testing.T) {
	t.Parallel()
	var options [][]string // of each, its names
	for line := range strings.Lines(string(readFile(t, "../../gpu/sizing/serveline/options.txt"))) {
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			options = append(options, strings.Split(words[0], ","))
		}
	}
	options = append(options, []string{"--help"})
	begins := func(short string) int {
		n := 0
		for _, names := range options {
			if slices.ContainsFunc(names, func(name string) bool {
				return strings.HasPrefix(name, short) || strings.HasPrefix("--no-"+strings.TrimPrefix(name, "--"), short)
			}) {
				n++
			}
		}
		return n
	}
	var others []string
	for _, names := range options {
		instead, own := ownOptions[names[0]]
		if !own {
			others = append(others, names...)
			continue
		}
		words := slices.Clone(names)
		for _, name := range names {
			for n := len("--x"); n < len(name); n++ {
				if begins(name[:n]) == 1 {
					words = append(words, name[:n])
					break
				}
			}
		}
		for _, word := range words {
			_, err := vllm(leastVLLM+"vllm: {extraArgs: ['"+word+"']}", "").Objects()
			if err == nil || !strings.Contains(err.Error(), "is in vllm.extraArgs") || !strings.Contains(err.Error(), instead) {
				t.Errorf("%s is to be refused for %s: %v", word, instead, err)
			}
		}
	}
	if len(others) < 250 || len(options)-len(ownOptions) > len(others) {
		t.Fatalf("%d options, %d names of others", len(options), len(others))
	}
	if _, err := vllm(leastVLLM+"vllm: {extraArgs: ['"+strings.Join(others, "', '")+"']}", "").Objects(); err != nil {
		t.Errorf("options that the chart does not set: %v", err)
	}
}

// TestNamesOfReleasesWithDots: a release may be called so, and no Service.
func TestNamesOfReleasesWithDots(t *testing.T) {
	for release, want := range map[string]string{"r.with.dots": "r-with-dots-vllm", "my.vllm": "my-vllm", "qwen": "qwen-vllm", "7b": "7b-vllm"} {
		r := vllm(leastVLLM, "")
		r.Name = release
		objects, err := r.Objects()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if name := o.GetName(); (o.GetKind() == "Service" || o.GetKind() == "Deployment") && name != want {
				t.Errorf("release %s has the %s %s, want %s", release, o.GetKind(), name, want)
			}
		}
	}
}
