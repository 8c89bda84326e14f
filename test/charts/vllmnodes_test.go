package charts

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/cluster"
)

// severalNodes has a replica's 16 GPUs on two nodes.
const severalNodes = "workload: LeaderWorkerSet\nmultiNode: {size: 2}\nvllm: {tensorParallel: 8, pipelineParallel: 2}\n"

// leaderWorkerSet is the rendered one, with its two pod templates.
func leaderWorkerSet(t *testing.T, objs []*unstructured.Unstructured) (obj *unstructured.Unstructured, leader, worker corev1.PodTemplateSpec) {
	t.Helper()
	i := slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == "LeaderWorkerSet" })
	if i < 0 {
		t.Fatal("no LeaderWorkerSet rendered")
	}
	for name, into := range map[string]*corev1.PodTemplateSpec{"leaderTemplate": &leader, "workerTemplate": &worker} {
		template, found, err := unstructured.NestedMap(objs[i].Object, "spec", "leaderWorkerTemplate", name)
		if err != nil || !found {
			t.Fatalf("there is no %s: %v", name, err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(template, into, true); err != nil {
			t.Fatal(err)
		}
	}
	return objs[i], leader, worker
}

func TestVLLMNodesGolden(t *testing.T) {
	r := vllm(leastVLLM+severalNodes, "")
	objs, err := r.Objects()
	if err != nil {
		t.Fatal(err)
	}
	notes, err := r.Notes()
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, filepath.Join("golden", "vllm-nodes.yaml"), manifest(t, objs))
	checkGolden(t, filepath.Join("golden", "vllm-nodes-notes.txt"), notes)
}

// Leader and worker are the same pod, but for the API, which the leader alone has.
func TestVLLMSeveralNodes(t *testing.T) {
	for _, mode := range []string{"chart", "admission"} {
		objs := vllmObjects(t, withInject(t, leastVLLM+severalNodes+"port: 8080\n", mode))
		if slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" }) {
			t.Error("there is a Deployment beside the LeaderWorkerSet")
		}
		_, leader, worker := leaderWorkerSet(t, objs)
		for role, pod := range map[string]corev1.PodTemplateSpec{"leader": leader, "worker": worker} {
			c := pod.Spec.Containers[0]
			for _, want := range []string{"--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=2", "--node-rank=$(LWS_WORKER_INDEX)", "--master-addr=$(LWS_LEADER_ADDRESS)"} {
				if !slices.Contains(c.Args, want) {
					t.Errorf("%s has no %s: %q", role, want, c.Args)
				}
			}
			fit := pod.Spec.InitContainers[len(pod.Spec.InitContainers)-1]
			for _, want := range []string{"--tensor-parallel=8", "--pipeline-parallel-size=2", "--nnodes=2", "--check"} {
				if !slices.Contains(fit.Args, want) {
					t.Errorf("%s's check has no %s: %q", role, want, fit.Args)
				}
			}
			for _, c := range []corev1.Container{c, fit} {
				if n := c.Resources.Limits["nvidia.com/gpu"]; n.Value() != 8 {
					t.Errorf("%s's container %s has %d GPUs, want its 8 of 16", role, c.Name, n.Value())
				}
			}
			if pod.Labels["stoker.dev/model"] != "qwen2.5-7b-instruct" || pod.Annotations[inject.PlacementAnnotation] != "prefer" {
				t.Errorf("%s has labels %v and annotations %v", role, pod.Labels, pod.Annotations)
			}
		}
		l, w := &leader.Spec.Containers[0], &worker.Spec.Containers[0]
		if l.ReadinessProbe == nil || w.ReadinessProbe != nil || w.LivenessProbe != nil || w.StartupProbe != nil || len(w.Ports) != 0 {
			t.Errorf("leader has %v, worker %v, %v, %v and ports %v; want probes of the leader alone", l.ReadinessProbe, w.ReadinessProbe, w.LivenessProbe, w.StartupProbe, w.Ports)
		}
		if got := []string{l.Lifecycle.PreStop.Exec.Command[5], w.Lifecycle.PreStop.Exec.Command[5]}; !slices.Equal(got, []string{"http://127.0.0.1:8080/metrics", "http://$LWS_LEADER_ADDRESS:8080/metrics"}) {
			t.Errorf("pods drain by %q", got)
		}
		// What differs besides is nothing.
		w.Args = slices.DeleteFunc(w.Args, func(arg string) bool { return arg == "--headless" })
		l.Lifecycle, w.Lifecycle = nil, nil
		l.Ports, l.ReadinessProbe, l.LivenessProbe, l.StartupProbe, leader.Spec.TopologySpreadConstraints = nil, nil, nil, nil, nil
		if diff := cmp.Diff(leader, worker); diff != "" {
			t.Errorf("leader and worker differ in more (-leader +worker):\n%s", diff)
		}
	}
}

// What counts, reaches or scales replicas goes by leaders: their number is that of replicas.
func TestVLLMLeadersAreReplicas(t *testing.T) {
	const all = leastVLLM + severalNodes + "monitoring: {podMonitor: {enabled: true}, rules: {enabled: true}}\nspread: host\n"
	const index = "leaderworkerset.sigs.k8s.io/worker-index"
	for _, kind := range []string{"hpa", "keda"} {
		objs := vllmObjects(t, all+"autoscaling: {kind: "+kind+"}")
		set, leader, _ := leaderWorkerSet(t, objs)
		if got := leader.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels[index]; got != "0" {
			t.Errorf("leaders are spread by worker index %q", got)
		}
		seen := 0
		for _, obj := range objs {
			var path []string
			want := "0"
			switch obj.GetKind() {
			case "Service":
				path = []string{"spec", "selector", index}
				if obj.GetName() == set.GetName() {
					t.Errorf("the Service has the name %s, under which the controller makes a headless one", obj.GetName())
				}
			case "PodMonitor":
				path = []string{"spec", "selector", "matchLabels", index}
			case "HorizontalPodAutoscaler", "ScaledObject":
				path, want = []string{"spec", "scaleTargetRef", "name"}, set.GetName()
			default:
				continue
			}
			seen++
			if got, _, err := unstructured.NestedString(obj.Object, path...); got != want || err != nil {
				t.Errorf("%s has %q at %s, want %q: %v", obj.GetKind(), got, strings.Join(path, "."), want, err)
			}
		}
		if seen != 3 {
			t.Errorf("%s: %d objects were looked at, want 3", kind, seen)
		}
		if !strings.Contains(manifest(t, objs), `pod=~"`+set.GetName()+`-[0-9]+"`) {
			t.Error("alerts are not of the leaders' pods")
		}
	}
}

// The longest names leave room for the group's index, the index in it and a hash, which
// a StatefulSet's label adds.
func TestVLLMNodesNamesAreShort(t *testing.T) {
	set, _, _ := leaderWorkerSet(t, vllmObjects(t, leastVLLM+severalNodes+"fullnameOverride: "+strings.Repeat("a", 46)))
	if revision := set.GetName() + "-99-0123456789"; len(revision) > 63 {
		t.Errorf("%s has %d characters", revision, len(revision))
	}
}

// A rack of their own, and a label of the values over a common one.
func TestVLLMNodesValues(t *testing.T) {
	set, leader, worker := leaderWorkerSet(t, vllmObjects(t, leastVLLM+strings.Replace(severalNodes, "size: 2", "size: 4, exclusiveTopology: cloud.example/rack", 1)+
		"commonLabels: {team: a, tier: b}\npodLabels: {team: c}\nreplicas: 3\n"))
	if got := set.GetAnnotations()["leaderworkerset.sigs.k8s.io/exclusive-topology"]; got != "cloud.example/rack" {
		t.Errorf("the topology is %q", got)
	}
	if n, _, err := unstructured.NestedFloat64(set.Object, "spec", "replicas"); n != 3 || err != nil {
		t.Errorf("%v replicas, want 3: %v", n, err)
	}
	for _, pod := range []corev1.PodTemplateSpec{leader, worker} {
		if pod.Labels["team"] != "c" || pod.Labels["tier"] != "b" {
			t.Errorf("a pod has the labels %v", pod.Labels)
		}
		if n := pod.Spec.Containers[0].Resources.Limits["nvidia.com/gpu"]; n.Value() != 4 {
			t.Errorf("a pod has %d of 16 GPUs on 4 nodes", n.Value())
		}
	}
}

// The API server scales the set by its subresource, and what its controller makes of
// either template is completed by the policy, as the chart would.
func testSeveralNodes(t *testing.T, c *cluster.Cluster) {
	specs := map[string][]corev1.PodSpec{}
	for namespace, mode := range map[string]string{"serving": "admission", "by-chart": "chart"} {
		values := withInject(t, leastVLLM+severalNodes+"lora: {adapters: [sql]}\nreplicas: 1\n", mode)
		objs, err := Release{Chart: VLLM, Name: "apart", Namespace: namespace, Values: []byte(values)}.Objects()
		if err != nil {
			t.Fatal(err)
		}
		if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
			t.Fatal(err)
		}
		set, leader, worker := leaderWorkerSet(t, objs)
		scaleSet(t, c, set)
		for name, template := range map[string]corev1.PodTemplateSpec{"0": leader, "1": worker} {
			pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
			pod.Name, pod.Labels = set.GetName()+"-0-"+name, maps.Clone(pod.Labels)
			pod.Labels["leaderworkerset.sigs.k8s.io/worker-index"] = name
			specs[name] = append(specs[name], createdPod(t, c, namespace, pod))
		}
	}
	for name, both := range specs {
		if diff := cmp.Diff(both[0], both[1]); diff != "" {
			t.Errorf("pods of index %s differ between the policy and the chart:\n%s", name, diff)
		}
	}
}

// createdPod is what the API server would make of a pod, once the policy is in force.
func createdPod(t *testing.T, c *cluster.Cluster, namespace string, pod *corev1.Pod) corev1.PodSpec {
	t.Helper()
	var made *corev1.Pod
	err := cluster.WaitFor(t.Context(), pod.Name+" to have "+inject.Waiter, func(ctx context.Context) (bool, error) {
		var err error
		made, err = c.Client().CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		return err == nil && len(made.Spec.InitContainers) == 2 && made.Spec.InitContainers[0].Name == inject.Waiter, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return made.Spec
}

// scaleSet is what an autoscaler does.
func scaleSet(t *testing.T, c *cluster.Cluster, set *unstructured.Unstructured) {
	t.Helper()
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	sets := client.Resource(schema.GroupVersionResource{Group: "leaderworkerset.x-k8s.io", Version: "v1", Resource: "leaderworkersets"}).Namespace(set.GetNamespace())
	got, err := sets.Patch(t.Context(), set.GetName(), types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	var scale autoscalingv1.Scale
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(got.Object, &scale); err != nil || scale.Spec.Replicas != 3 {
		t.Errorf("scaled to %d, want 3: %v", scale.Spec.Replicas, err)
	}
}
