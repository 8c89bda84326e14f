package sweep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/hostile"
)

// containerArgs are the arguments of the first container of a Deployment or Job.
func containerArgs(b *bench, obj *unstructured.Unstructured) []string {
	b.Helper()
	template, _, err := unstructured.NestedMap(obj.Object, "spec", "template")
	if err != nil {
		b.Fatal(err)
	}
	var pod corev1.PodTemplateSpec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, &pod); err != nil {
		b.Fatal(err)
	}
	return pod.Spec.Containers[0].Args
}

// unlabel runs the binary with a kubeconfig and returns its exit code and output.
func (b *bench) unlabel(binary, kubeconfig string, args ...string) (code int, stdout, stderr string) {
	b.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(b.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), out.String(), errs.String()
	}
	if err != nil {
		b.Fatal(err)
	}
	return 0, out.String(), errs.String()
}

// hookArgs are the arguments of the Job's container.
func hookArgs(b *bench) []string {
	b.Helper()
	objs, err := charts.PostDeleteHooks([]byte(values), release, namespace)
	if err != nil {
		b.Fatal(err)
	}
	for _, obj := range objs {
		if obj.GetKind() == "Job" {
			return containerArgs(b, obj)
		}
	}
	b.Fatal("no Job is among the hooks")
	return nil
}

// hookPod waits for the pod of the hook's Job, which the real controller makes.
func hookPod(b *bench) *corev1.Pod {
	b.Helper()
	var pod *corev1.Pod
	b.wait("the Job's pod", func(ctx context.Context) (bool, error) {
		pods, err := b.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + unlabeler})
		if err != nil || len(pods.Items) != 1 {
			return false, err
		}
		pod = &pods.Items[0]
		return true, nil
	})
	return pod
}

// uninstall deletes the DaemonSet as `helm uninstall` does.
func (b *bench) uninstall() {
	b.Helper()
	background := metav1.DeletePropagationBackground
	err := b.client.AppsV1().DaemonSets(namespace).Delete(b.Context(), release+"-stoker", metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil {
		b.Fatal(err)
	}
}

// helm template | kubectl apply --server-side: the Job is created at install, sees the
// release's DaemonSet, and the real Job controller gives it up at its first failure.
func testHookAtInstall(b *bench) {
	b.node("installed")
	b.labelOf("installed", `{"version":1,"release":"`+namespace+"/"+release+`"}`)
	before := b.get("installed")
	objs, err := charts.Release{Chart: charts.Stoker, Name: release, Namespace: namespace, Values: []byte(values)}.Template()
	if err != nil {
		b.Fatal(err)
	}
	if err := charts.Apply(b.Context(), b.cluster.RESTConfig(), objs); err != nil {
		b.Fatal(err)
	}
	defer func() {
		background := metav1.DeletePropagationBackground
		if err := b.client.BatchV1().Jobs(namespace).Delete(b.Context(), unlabeler, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			b.Error(err)
		}
		b.wait("the Job's pods to be gone", func(ctx context.Context) (bool, error) {
			pods, err := b.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + unlabeler})
			return err == nil && len(pods.Items) == 0, err
		})
	}()
	pod := hookPod(b)
	b.as(unlabeler)
	code, stdout, stderr := b.unlabel(b.binary(), b.kubeconfig(unlabeler), hookArgs(b)...)
	if code != 2 || stdout != "" || !strings.Contains(stderr, "the release is still there: DaemonSet "+release+"-stoker of namespace "+namespace+"; uninstall the release first") {
		b.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
	if after := b.get("installed"); after.ResourceVersion != before.ResourceVersion {
		b.Errorf("the node was written: %s", cmp.Diff(before, after))
	}
	// What a kubelet would say of its end.
	patch := fmt.Sprintf(`{"status":{"phase":"Failed","containerStatuses":[{"name":"unlabel","image":"a","imageID":"a","ready":false,"restartCount":0,
		"state":{"terminated":{"exitCode":%d}}}]}}`, code)
	if _, err := b.client.CoreV1().Pods(namespace).Patch(b.Context(), pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		b.Fatal(err)
	}
	b.wait("the Job to be given up", func(ctx context.Context) (bool, error) {
		job, err := b.client.BatchV1().Jobs(namespace).Get(ctx, unlabeler, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue && c.Reason == batchv1.JobReasonPodFailurePolicy
		}), nil
	})
}

// The hook's objects are created as Helm would, in its order, and its Job's
// container is run with its account's rights. More nodes than one page holds.
func testUnlabel(b *bench) {
	const nodes, every = 600, 5
	for i := range nodes {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("many-%04d", i), Labels: map[string]string{"team": "a"}}}
		if i%every == 0 {
			n.Labels["warm.stoker.dev/llama"] = "disk"
			n.Annotations = map[string]string{"stoker.dev/status": "{}", "note": "mine"}
		}
		if _, err := b.client.CoreV1().Nodes().Create(b.Context(), n, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.node("unlabelled")
	before := b.get("unlabelled")
	b.uninstall()
	defer b.install() // for those that follow
	objs, err := charts.PostDeleteHooks([]byte(values), release, namespace)
	if err != nil {
		b.Fatal(err)
	}
	if err := charts.Apply(b.Context(), b.cluster.RESTConfig(), objs); err != nil {
		b.Fatal(err)
	}
	hookPod(b)
	args := hookArgs(b)
	cfg := b.as(unlabeler)
	b.waitPolicy(cfg, "unlabelled")
	binary := b.binary()
	code, stdout, stderr := b.unlabel(binary, b.kubeconfig(unlabeler), append(args, "-o", "json")...)
	if code != 0 {
		b.Fatalf("exit code %d: %s", code, stderr)
	}
	var got struct {
		Nodes []struct {
			Node    string
			Removed []string
			Error   string
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		b.Fatal(err)
	}
	done := map[string]int{}
	for _, n := range got.Nodes {
		done[n.Node] = len(n.Removed)
	}
	if len(got.Nodes) < nodes/every+1 || done["unlabelled"] != 6 || done["many-0005"] != 2 || done["many-0595"] != 2 {
		b.Errorf("it tells of %d nodes: %v", len(got.Nodes), done)
	}
	list, err := b.client.CoreV1().Nodes().List(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range list.Items {
		n := &list.Items[i]
		if left := keysOf(n); len(left) > 0 {
			b.Errorf("%s still has %v", n.Name, left)
		}
		if n.Labels["team"] != "a" {
			b.Errorf("%s lost more: %v", n.Name, n.Labels)
		}
	}
	after := b.get("unlabelled")
	for key := range keysOf(before) {
		delete(before.Labels, key)
		delete(before.Annotations, key)
	}
	for _, n := range []*corev1.Node{before, after} {
		n.ManagedFields, n.ResourceVersion = nil, ""
	}
	if diff := cmp.Diff(before, after); diff != "" {
		b.Errorf("more than the agent's keys changed, -before +after\n%s", diff)
	}
	version := b.get("unlabelled").ResourceVersion
	if code, stdout, stderr := b.unlabel(binary, b.kubeconfig(unlabeler), args...); code != 0 || stdout != "no node has anything that agents of release "+namespace+"/"+release+" wrote\n" {
		b.Errorf("again: exit code %d, %s%s", code, stdout, stderr)
	}
	if now := b.get("unlabelled").ResourceVersion; now != version {
		b.Error("the second time wrote something")
	}
	reasons := hostileNodes("steady")
	hostile.Try(b.T, cfg, reasons[:3])
}

// Another release has agents in the cluster, and wrote on some nodes; on others, who
// wrote is not said.
func testOtherRelease(b *bench) {
	const theirs = "elsewhere/other"
	for _, name := range []string{"ours", "theirs", "nobodys"} {
		b.node(name)
	}
	b.labelOf("ours", `{"version":1,"release":"`+namespace+"/"+release+`"}`)
	b.labelOf("theirs", `{"version":1,"release":"`+theirs+`"}`)
	objs, err := charts.Render(nil, "other", "elsewhere")
	if err != nil {
		b.Fatal(err)
	}
	objs = slices.DeleteFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() != "DaemonSet" })
	if _, err := b.client.CoreV1().Namespaces().Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if err := charts.Apply(b.Context(), b.cluster.RESTConfig(), objs); err != nil {
		b.Fatal(err)
	}
	b.uninstall()
	defer b.install() // for those that follow
	binary, args := b.binary(), append(hookArgs(b), "-o", "json")
	removed := func() []string {
		code, stdout, stderr := b.unlabel(binary, b.kubeconfig(unlabeler), args...)
		if code != 0 {
			b.Fatalf("exit code %d: %s", code, stderr)
		}
		var got struct{ Nodes []struct{ Node string } }
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			b.Fatal(err)
		}
		var out []string
		for _, n := range got.Nodes {
			out = append(out, n.Node)
		}
		return out
	}
	if got := removed(); !slices.Equal(got, []string{"ours"}) {
		b.Errorf("while another release has agents, it removed what stands on %q", got)
	}
	b.waitBare("ours")
	b.untouched("nobodys")
	if left := keysOf(b.get("theirs")); len(left) != 6 {
		b.Errorf("of the other release's node it left %v", left)
	}
	background := metav1.DeletePropagationBackground
	if err := b.client.AppsV1().DaemonSets("elsewhere").Delete(b.Context(), "other-stoker", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		b.Fatal(err)
	}
	if got := removed(); !slices.Equal(got, []string{"nobodys"}) {
		b.Errorf("once no other release has agents, it removed what stands on %q", got)
	}
	if left := keysOf(b.get("theirs")); len(left) != 6 {
		b.Errorf("of the other release's node it left %v", left)
	}
	b.label("theirs") // nobody else's, for those that follow
	if code, _, stderr := b.unlabel(binary, b.cluster.KubeconfigPath, "unlabel", "--node=theirs"); code != 0 {
		b.Error(stderr)
	}
}

func testUnlabelFails(b *bench) {
	b.node("named")
	b.node("spared")
	binary := b.binary()
	admin := b.cluster.KubeconfigPath
	if code, _, stderr := b.unlabel(binary, admin, "unlabel", "--node", "named", "--node", "no-such"); code != 2 || !strings.Contains(stderr, "read node no-such: there is no such node") {
		b.Errorf("an unknown node: exit code %d, %s", code, stderr)
	}
	b.untouched("named")
	code, stdout, stderr := b.unlabel(binary, admin, "unlabel", "--node", "named")
	if code != 0 || !strings.HasPrefix(stdout, "NODE   RESULT  REMOVED\nnamed  done    fits.stoker.dev/llama, ") {
		b.Errorf("one node: exit code %d, %s%s", code, stdout, stderr)
	}
	b.waitBare("named")
	b.untouched("spared")
	// The agents' account may patch nodes but not list them.
	if code, _, stderr := b.unlabel(binary, b.kubeconfig(release+"-stoker"), "unlabel", "--all"); code != 1 || !strings.Contains(stderr, "list nodes: ") || !strings.Contains(stderr, "let this account do so") {
		b.Errorf("without rights: exit code %d, %s", code, stderr)
	}
	// One node that cannot be done: the sweeper's policy does not know this
	// request's account, so another one stands in its way.
	b.refuseNode("spared")
	b.node("willing")
	code, stdout, stderr = b.unlabel(binary, admin, "unlabel", "--all")
	if code != 1 || !strings.Contains(stderr, "1 node could not be done; run it again") || !strings.Contains(stderr, "spared is not to be touched") {
		b.Errorf("one that fails: exit code %d, %s%s", code, stdout, stderr)
	}
	b.waitBare("willing")
	b.untouched("spared")
}

// refuseNode makes a policy that lets nobody change a node.
func (b *bench) refuseNode(name string) {
	b.Helper()
	fail, deny := admissionv1.Fail, []admissionv1.ValidationAction{admissionv1.Deny}
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "refuse"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"nodes"}},
			}}}},
			Validations: []admissionv1.Validation{{Expression: fmt.Sprintf("object.metadata.name != %q", name), Message: name + " is not to be touched"}},
		},
	}
	if _, err := b.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(b.Context(), policy, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "refuse"},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "refuse", ValidationActions: deny},
	}
	if _, err := b.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(b.Context(), binding, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.waitPolicy(b.cluster.RESTConfig(), name)
}
