package charts

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/cluster"
)

// The API server takes every object with no field that it does not know, those
// of KEDA, of the Prometheus operator, of the Gateway API and of the
// LeaderWorkerSet by their own definitions; and a pod that Stoker's policy
// completes is one that the chart completes.
func TestApplyVLLM(t *testing.T) {
	c := startCluster(t)
	createNamespaces(t, c.Client(), "privileged", releaseNamespace, "serving", "by-chart")
	applyCRDs(t, c)

	stoker, err := Render([]byte("namespaces: [serving, by-chart]\nmodels: [{source: 'hf://Qwen/Qwen2.5-7B-Instruct'}]"), "stoker", releaseNamespace)
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), c.RESTConfig(), stoker); err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string]string{
		"least":  leastVLLM,
		"full":   string(readFile(t, "testdata/vllm-full-values.yaml")),
		"keda":   leastVLLM + "autoscaling: {kind: keda}\ncompileCache: {enabled: true}\nmonitoring: {podMonitor: {enabled: true}, rules: {enabled: true}, dashboards: {enabled: true}}",
		"hpa":    leastVLLM + "autoscaling: {kind: hpa}\nspot: avoid\nspread: none",
		"claims": leastVLLM + "gpu: {resource: ''}\nresourceClaims: [{name: gpus, resourceClaimName: mine}]\nrollout: {type: Recreate}\nservice: {type: NodePort}\nserviceAccount: {create: true}",
		"nodes":  leastVLLM + severalNodes + "autoscaling: {kind: keda}\nmonitoring: {podMonitor: {enabled: true}, rules: {enabled: true}}",
		"colder": "stoker: {enabled: false}\nmodel: {name: tiny, source: 'hf://Org/Tiny'}\nhubCache: {claimName: models, tokenSecret: hub}\n" +
			"monitoring: {rules: {enabled: true}}\nmaxUnavailable: null\nreplicas: 0",
	} {
		objs, err := Release{Chart: VLLM, Name: name, Namespace: "serving", Values: []byte(values)}.Objects()
		if err != nil {
			t.Fatal(err)
		}
		if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
			t.Errorf("%s values: %v", name, err)
		}
	}
	t.Run("several nodes", func(t *testing.T) { testSeveralNodes(t, c) })
	t.Run("unknown fields are errors", func(t *testing.T) { testStrictVLLM(t, c) })
	t.Run("the policy's pod is the chart's", func(t *testing.T) { testSamePod(t, c) })
}

// applyCRDs makes the definitions of KEDA, of the Prometheus operator, of the
// Gateway API and of the LeaderWorkerSet known.
func applyCRDs(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, read := range []func(context.Context) ([]*unstructured.Unstructured, error){KEDACRDs, PrometheusOperatorCRDs, GatewayAPICRDs, LeaderWorkerSetCRDs} {
		objs, err := read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, objs...)
	}
	if err := ApplyCRDs(t.Context(), c.RESTConfig(), all); err != nil {
		t.Fatal(err)
	}
}

// Were the definitions not enforced, everything above would pass.
func testStrictVLLM(t *testing.T, c *cluster.Cluster) {
	objs, err := Release{Chart: VLLM, Name: "keda", Namespace: "serving", Values: []byte(leastVLLM +
		"autoscaling: {kind: keda}\nmonitoring: {podMonitor: {enabled: true}, rules: {enabled: true}}\nhttpRoute: {enabled: true, parentRefs: [{name: public}]}\n" + severalNodes)}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	broken := 0
	for _, obj := range objs {
		if !strings.Contains(obj.GroupVersionKind().Group, ".") || obj.GetKind() == "PodDisruptionBudget" {
			continue
		}
		bad := obj.DeepCopy()
		if err := unstructured.SetNestedField(bad.Object, int64(300), "spec", "cooldown"); err != nil {
			t.Fatal(err)
		}
		err := Apply(t.Context(), c.RESTConfig(), []*unstructured.Unstructured{bad})
		if err == nil || !strings.Contains(err.Error(), "cooldown") {
			t.Errorf("%s: an unknown field was answered with %v", obj.GetKind(), err)
		}
		broken++
	}
	if broken != 5 {
		t.Errorf("%d custom resources were tried, want 5", broken)
	}
}

// testSamePod lets the real Deployment controller make the pods of both.
func testSamePod(t *testing.T, c *cluster.Cluster) {
	specs := map[string]corev1.PodSpec{}
	for namespace, mode := range map[string]string{"serving": "admission", "by-chart": "chart"} {
		values := withInject(t, leastVLLM+"stoker: {placement: require, fitCheck: true}\nlora: {adapters: [sql, chat]}\n", mode)
		objs, err := Release{Chart: VLLM, Name: "twin", Namespace: namespace, Values: []byte(values)}.Objects()
		if err != nil {
			t.Fatal(err)
		}
		if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
			t.Fatal(err)
		}
		specs[namespace] = injectedPod(t, c, namespace)
	}
	if diff := cmp.Diff(specs["serving"], specs["by-chart"]); diff != "" {
		t.Errorf("pods differ (-by the policy +by the chart):\n%s", diff)
	}
}

// injectedPod waits for a pod with the init container: the policy takes a moment
// until it is in force, and the ReplicaSet is told to try again.
func injectedPod(t *testing.T, c *cluster.Cluster, namespace string) corev1.PodSpec {
	t.Helper()
	pods := c.Client().CoreV1().Pods(namespace)
	selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=twin"}
	var found corev1.PodSpec
	err := cluster.WaitFor(t.Context(), "a pod with "+inject.Waiter+" in "+namespace, func(ctx context.Context) (bool, error) {
		list, err := pods.List(ctx, selector)
		if err != nil || len(list.Items) == 0 {
			return false, err
		}
		found = list.Items[0].Spec
		if len(found.InitContainers) == 2 && found.InitContainers[0].Name == inject.Waiter {
			return true, nil
		}
		return false, pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, selector)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
