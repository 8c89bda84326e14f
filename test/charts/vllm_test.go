package charts

import (
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent/inject"
)

// vllm is a release of charts/vllm on a version of Kubernetes.
func vllm(values, kube string) Release {
	return Release{Chart: VLLM, Name: "qwen", Namespace: "serving", Values: []byte(values), KubeVersion: kube}
}

func vllmObjects(t *testing.T, values string) []*unstructured.Unstructured {
	t.Helper()
	objs, err := vllm(values, "").Objects()
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// vllmDeployment is the rendered one.
func vllmDeployment(t *testing.T, objs []*unstructured.Unstructured) appsv1.Deployment {
	t.Helper()
	for _, obj := range objs {
		if obj.GetKind() == "Deployment" {
			var d appsv1.Deployment
			find(t, []*unstructured.Unstructured{obj}, "Deployment", objectKey(obj), &d)
			return d
		}
	}
	t.Fatal("no Deployment rendered")
	return appsv1.Deployment{}
}

// injectValues are shapes of what the chart may have to inject into.
var injectValues = map[string]string{
	"least":          leastVLLM,
	"no fit check":   leastVLLM + "stoker: {fitCheck: false}\n",
	"required":       leastVLLM + "stoker: {placement: require}\n",
	"fits required":  leastVLLM + "stoker: {requireFits: true}\n",
	"both":           leastVLLM + "stoker: {placement: require, requireFits: true, fitCheck: false}\n",
	"other weights":  leastVLLM + "stoker: {weights: {warm: 7, fits: 0, ram: 0, idle: 0}}\n",
	"spot preferred": leastVLLM + "spot: prefer\n",
	"spot avoided":   leastVLLM + "spot: avoid\n",
	"no affinity":    leastVLLM + "spot: any\n",
	"containers of his own": leastVLLM + `sidecars: [{name: a, image: a}, {name: b, image: b, env: [{name: HF_HUB_CACHE, value: /x}], volumeMounts: [{name: v, mountPath: /models}]}]
initContainers: [{name: c, image: c}]
extraVolumes: [{name: v, emptyDir: {}}]
extraVolumeMounts: [{name: v, mountPath: /v}]
`,
	"own adapters":    "stoker: {enabled: false}\nmodel: {name: a, source: 'hf://o/n'}\nmonitoring: {stoker: {enabled: false}}\nvllm: {extraArgs: [--enable-lora, --max-lora-rank=64, --lora-modules=sql=Org/sql]}\n",
	"several nodes":   leastVLLM + severalNodes,
	"adapters":        leastVLLM + "lora: {adapters: [sql, chat]}\n",
	"a compile cache": leastVLLM + "compileCache: {enabled: true}\n",
	"terms of its own": leastVLLM + `stoker: {placement: require}
spot: any
affinity:
  nodeAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - {weight: 3, preference: {matchExpressions: [{key: a, operator: Exists}]}}
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms: [{matchExpressions: [{key: b, operator: Exists}]}, {matchFields: [{key: metadata.name, operator: In, values: [n]}]}, {}]
  podAffinity: {}
`,
}

// What the chart writes where it injects is what `stoker inject` makes of what
// it leaves to the admission policy, which another test holds to the same.
func TestVLLMInjectsAsStokerDoes(t *testing.T) {
	values := map[string]string{"full": string(readFile(t, "testdata/vllm-full-values.yaml"))}
	for name, text := range injectValues {
		values[name] = text
	}
	for name, text := range values {
		t.Run(name, func(t *testing.T) {
			var parsed struct {
				Stoker struct {
					CPU, Memory string
					NonRootUser int64
					Image       struct{ PullPolicy string }
					Weights     struct{ Warm, Fits, RAM, Idle *int }
				}
			}
			if err := yaml.Unmarshal([]byte(text), &parsed); err != nil {
				t.Fatal(err)
			}
			or := func(value *int, byDefault int) int {
				if value == nil {
					return byDefault
				}
				return *value
			}
			s := parsed.Stoker
			options := inject.Options{
				Image: "ghcr.io/stoker-project/stoker:0.1.0", PullPolicy: "IfNotPresent", CPU: "100m", Memory: "128Mi",
				WeightWarm: or(s.Weights.Warm, 100), WeightFits: or(s.Weights.Fits, 100), WeightRAM: or(s.Weights.RAM, 10), WeightIdle: or(s.Weights.Idle, 1),
				RequireFits: true, User: inject.DefaultUser,
			}
			if name == "full" {
				options.Image = "registry.example:5000/team/stoker@sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
				options.PullPolicy, options.CPU, options.Memory, options.User = s.Image.PullPolicy, s.CPU, s.Memory, s.NonRootUser
			}
			byAdmission := vllmObjects(t, withInject(t, text, "admission"))
			byChart := vllmObjects(t, withInject(t, text, "chart"))
			for _, obj := range byAdmission {
				inject.Object(obj.Object, options)
			}
			if diff := cmp.Diff(manifest(t, byAdmission), manifest(t, byChart)); diff != "" {
				t.Errorf("stoker inject and the chart differ (-inject +chart):\n%s", diff)
			}
			for _, obj := range byChart {
				if got := inject.Object(obj.Object, options); got.Injected != 0 {
					t.Errorf("stoker inject changes %s, which the chart has injected", obj.GetKind())
				}
			}
		})
	}
}

// withInject sets stoker.inject in a text of values.
func withInject(t *testing.T, values, mode string) string {
	t.Helper()
	parsed := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &parsed); err != nil {
		t.Fatal(err)
	}
	stoker, ok := parsed["stoker"].(map[string]any)
	if !ok {
		stoker = map[string]any{}
		parsed["stoker"] = stoker
	}
	stoker["inject"] = mode
	out, err := yaml.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// By itself the chart injects where the API server cannot.
func TestVLLMInjectsWhereNobodyElseDoes(t *testing.T) {
	for version, want := range map[string]bool{"v1.30.0": true, "v1.35.9-gke.1": true, "v1.36.0": false, "v1.37.1": false} {
		objs, err := vllm(leastVLLM, version).Objects()
		if err != nil {
			t.Fatal(err)
		}
		pod := vllmDeployment(t, objs).Spec.Template.Spec
		has := slices.ContainsFunc(pod.InitContainers, func(c corev1.Container) bool { return c.Name == inject.Waiter })
		if has != want {
			t.Errorf("%s: injected by the chart: %v, want %v", version, has, want)
		}
	}
}

// The init containers' arguments are parsed by the real flag set.
func TestVLLMArgumentsAreTheBinarys(t *testing.T) {
	binary := buildBinary(t)
	for name, values := range map[string]string{"least": leastVLLM, "full": string(readFile(t, "testdata/vllm-full-values.yaml"))} {
		pod := vllmDeployment(t, vllmObjects(t, withInject(t, values, "chart"))).Spec.Template.Spec
		for i, flag := range []string{"--pin", "--check"} {
			args := slices.Insert(slices.Clone(pod.InitContainers[i].Args), 1, "--help") // what follows -- is vLLM's
			out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), flag) {
				t.Errorf("%s values: these are no arguments of the binary: %q: %v\n%s", name, args, err, out)
			}
		}
	}
}

// vLLM gets each argument once, the model first, and never a flag's value by
// accident.
func TestVLLMServes(t *testing.T) {
	const source = "stoker: {enabled: false}\nmodel: {name: tiny, source: 'hf://Org/Tiny'}\n"
	for name, tc := range map[string]struct {
		values string
		want   []string
	}{
		"from the store":       {leastVLLM, []string{"/stoker/model", "--served-model-name=qwen2.5-7b-instruct"}},
		"by another name":      {"model: {name: tiny, servedName: Org/Tiny}", []string{"/stoker/model", "--served-model-name=Org/Tiny"}},
		"without Stoker":       {source, []string{"Org/Tiny", "--served-model-name=tiny"}},
		"pinned, without":      {strings.Replace(source, "Org/Tiny", "Org/Tiny@refs/pr/1", 1), []string{"Org/Tiny", "--revision=refs/pr/1", "--served-model-name=tiny"}},
		"two million tokens":   {leastVLLM + "vllm: {maxModelLen: 2097152}", []string{"--max-model-len=2097152"}},
		"adapters":             {leastVLLM + "lora: {adapters: [sql, chat]}", []string{"/stoker/model", "--enable-lora", "--lora-modules", "sql=/stoker/adapters/sql", "chat=/stoker/adapters/chat", "--port=8000"}},
		"arguments of his own": {leastVLLM + "vllm: {extraArgs: [--max-num-seqs=8]}", []string{"--max-num-seqs=8"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := vllmDeployment(t, vllmObjects(t, tc.values)).Spec.Template.Spec.Containers[0]
			if !slices.Equal(c.Command, []string{"vllm", "serve"}) {
				t.Errorf("the command is %q", c.Command)
			}
			at := -1
			for _, arg := range tc.want {
				i := slices.Index(c.Args, arg)
				if i <= at {
					t.Errorf("%q is not behind the others of %q in %q", arg, tc.want, c.Args)
				}
				at = i
			}
			if strings.HasPrefix(c.Args[0], "-") {
				t.Errorf("the model is not first in %q", c.Args)
			}
			for _, arg := range c.Args[1:] {
				flag, _, _ := strings.Cut(arg, "=")
				same := 0
				for _, other := range c.Args {
					if strings.HasPrefix(other+"=", flag+"=") {
						same++
					}
				}
				if same != 1 {
					t.Errorf("%s is there %d times", flag, same)
				}
			}
		})
	}
}

// Without Stoker nothing of it is left, and the model's cache is a volume.
func TestVLLMWithoutStoker(t *testing.T) {
	objs := vllmObjects(t, "stoker: {enabled: false}\nmodel: {name: tiny, source: 'hf://Org/Tiny@main'}\nhubCache: {tokenSecret: hub}\nmonitoring: {rules: {enabled: true}}")
	text := manifest(t, objs)
	for _, left := range []string{"stoker.dev", "stoker-models", "stoker-pin", "/models", "HF_HUB_OFFLINE", "stoker_model"} {
		if strings.Contains(text, left) {
			t.Errorf("without Stoker there is still %s", left)
		}
	}
	pod := vllmDeployment(t, objs).Spec.Template.Spec
	if len(pod.InitContainers) != 0 {
		t.Errorf("there are init containers: %v", pod.InitContainers)
	}
	env := map[string]corev1.EnvVar{}
	for _, e := range pod.Containers[0].Env {
		env[e.Name] = e
	}
	if env["HF_TOKEN"].ValueFrom == nil || env["HF_TOKEN"].ValueFrom.SecretKeyRef.Name != "hub" {
		t.Errorf("the token comes from %+v", env["HF_TOKEN"])
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if m.MountPath == env["HF_HOME"].Value && !m.ReadOnly {
			return
		}
	}
	t.Errorf("HF_HOME is %s, where no volume is mounted that can be written: %v", env["HF_HOME"].Value, pod.Containers[0].VolumeMounts)
}

// What is compiled for one image, GPU, model, namespace or key is not another's.
func TestVLLMCompileCacheIsKeyed(t *testing.T) {
	const on = "compileCache: {enabled: true}\n"
	seen := map[string]string{}
	for name, r := range map[string]Release{
		"least":             vllm(leastVLLM+on, ""),
		"another tag":       vllm(leastVLLM+on+"image: {tag: v0.32.0}", ""),
		"a digest":          vllm(leastVLLM+on+"image: {digest: 'sha256:"+strings.Repeat("0", 64)+"'}", ""),
		"another GPU":       vllm(leastVLLM+on+"gpu: {product: NVIDIA-L4}", ""),
		"another model":     vllm("model: {name: other}\n"+on, ""),
		"another key":       vllm(leastVLLM+"compileCache: {enabled: true, key: driver-580}", ""),
		"another namespace": {Chart: VLLM, Name: "qwen", Namespace: "other", Values: []byte(leastVLLM + on)},
	} {
		objs, err := r.Objects()
		if err != nil {
			t.Fatal(err)
		}
		pod := vllmDeployment(t, objs).Spec.Template.Spec
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name != "compile-cache" {
				continue
			}
			if other, taken := seen[m.SubPath]; taken {
				t.Errorf("%s and %s share the folder %s", name, other, m.SubPath)
			}
			seen[m.SubPath] = name
			if !slices.ContainsFunc(pod.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "VLLM_CACHE_ROOT" && e.Value == m.MountPath }) {
				t.Errorf("%s: VLLM_CACHE_ROOT is not %s", name, m.MountPath)
			}
		}
		if name == "another GPU" && pod.NodeSelector["nvidia.com/gpu.product"] != "NVIDIA-L4" {
			t.Errorf("a replica for one kind of GPU may run on another: %v", pod.NodeSelector)
		}
	}
	if len(seen) != 7 {
		t.Errorf("found %d folders: %v", len(seen), seen)
	}
	if text := manifest(t, vllmObjects(t, leastVLLM)); strings.Contains(text, "hostPath") {
		t.Error("there is a hostPath by default")
	}
}

// The pod has until its requests have ended, whatever the values say.
func TestVLLMGracePeriodCoversTheDrain(t *testing.T) {
	for _, values := range []string{leastVLLM, leastVLLM + "drain: {settleSeconds: 60, timeoutSeconds: 3600}"} {
		pod := vllmDeployment(t, vllmObjects(t, values)).Spec.Template.Spec
		command := pod.Containers[0].Lifecycle.PreStop.Exec.Command
		needed := 0
		for _, seconds := range command[3:5] {
			n, err := strconv.Atoi(seconds)
			if err != nil {
				t.Fatal(err)
			}
			needed += n
		}
		if *pod.TerminationGracePeriodSeconds <= int64(needed) {
			t.Errorf("the hook takes up to %d s, the pod has %d", needed, *pod.TerminationGracePeriodSeconds)
		}
	}
}
