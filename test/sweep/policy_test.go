package sweep

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/test/hostile"
)

// What the policy says of what it refuses.
const (
	onlyRemove = "this account may remove labels and annotations, not add or change any"
	onlyOurs   = "this account may remove keys of stoker.dev, not those of others"
	noSpec     = "this account may not change the spec of a Node"
	noOwner    = "this account may not change finalizers or ownerReferences of a Node"
	onlyUpdate = "this account may change labels and annotations of Nodes, and do nothing else"
	// noRight is RBAC's word.
	noRight = "is forbidden: User \"system:serviceaccount:" + namespace + ":" + sweeper + "\" cannot"
)

// victim makes a node with one of everything that somebody might want to take.
func (b *bench) victim(name string) {
	b.Helper()
	b.node(name)
	add := `{"metadata":{"finalizers":["example.com/held"],
		"labels":{"stoker.dev":"x","xstoker.dev/a":"x","stoker.dev.example.com/a":"x","other.stoker.dev/a":"x"},
		"annotations":{"xstoker.dev/a":"x","deep.er.stoker.dev/a":"x"}}}`
	if _, err := b.client.CoreV1().Nodes().Patch(b.Context(), name, types.MergePatchType, []byte(add), metav1.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		// A finalizer would keep it from ever being deleted.
		if _, err := b.client.CoreV1().Nodes().Patch(context.WithoutCancel(b.Context()), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			b.Error(err)
		}
	})
}

// waitPolicy waits until the API server has read the policy: it does so a
// moment after it was created.
func (b *bench) waitPolicy(cfg *rest.Config, node string) {
	b.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.wait("the policy to be in force", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(`{"metadata":{"labels":{"foreign":"x"}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil && strings.Contains(err.Error(), "denied request") {
			return true, nil
		}
		return false, err
	})
}

// hostileNodes are requests about a Node that RBAC lets through to the policy.
func hostileNodes(node string) []hostile.Request {
	label := func(key, value string) string { return fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, key, value) }
	annotation := func(key, value string) string {
		return fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
	}
	apply := func(rest string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s%s}\n", node, rest)
	}
	return []hostile.Request{
		hostile.PatchNode("add a label of ours", node, hostile.Merge, label("warm.stoker.dev/other", `"disk"`), onlyRemove),
		hostile.PatchNode("add a foreign label", node, hostile.Merge, label("foreign", `"x"`), onlyRemove),
		hostile.PatchNode("make the node a control plane", node, hostile.Merge, label("node-role.kubernetes.io/control-plane", `""`), onlyRemove),
		hostile.PatchNode("change a warm label", node, hostile.Merge, label("warm.stoker.dev/llama", `"ram"`), onlyRemove),
		hostile.PatchNode("empty a warm label", node, hostile.Merge, label("warm.stoker.dev/llama", `""`), onlyRemove),
		hostile.PatchNode("change a foreign label", node, hostile.Merge, label("team", `"b"`), onlyRemove),
		hostile.PatchNode("remove a foreign label", node, hostile.Merge, label("team", "null"), onlyOurs),
		hostile.PatchNode("remove the hostname", node, hostile.Merge, label("kubernetes.io/hostname", "null"), onlyOurs),
		hostile.PatchNode("remove a label named as the domain", node, hostile.Merge, label("stoker.dev", "null"), onlyOurs),
		hostile.PatchNode("remove a label of a domain that ends alike", node, hostile.Merge, label("xstoker.dev/a", "null"), onlyOurs),
		hostile.PatchNode("remove a label of a domain that begins alike", node, hostile.Merge, label("stoker.dev.example.com/a", "null"), onlyOurs),
		hostile.PatchNode("remove all labels", node, hostile.Merge, `{"metadata":{"labels":null}}`, onlyOurs),
		hostile.PatchNode("remove one of ours and add another", node, hostile.Merge, `{"metadata":{"labels":{"warm.stoker.dev/llama":null,"warm.stoker.dev/mine":"disk"}}}`, onlyRemove),
		hostile.PatchNode("remove one of ours and a foreign one", node, hostile.Merge, `{"metadata":{"labels":{"warm.stoker.dev/llama":null,"team":null}}}`, onlyOurs),
		hostile.PatchNode("add an annotation of ours", node, hostile.Merge, annotation("stoker.dev/other", `"x"`), onlyRemove),
		hostile.PatchNode("change the status annotation", node, hostile.Merge, annotation("stoker.dev/status", `"{\"version\":1}"`), onlyRemove),
		hostile.PatchNode("add a foreign annotation", node, hostile.Merge, annotation("foreign", `"x"`), onlyRemove),
		hostile.PatchNode("change a foreign annotation", node, hostile.Merge, annotation("note", `"yours"`), onlyRemove),
		hostile.PatchNode("remove a foreign annotation", node, hostile.Merge, annotation("note", "null"), onlyOurs),
		hostile.PatchNode("remove an annotation of a domain that ends alike", node, hostile.Merge, annotation("xstoker.dev/a", "null"), onlyOurs),
		hostile.PatchNode("remove all annotations", node, hostile.Merge, `{"metadata":{"annotations":null}}`, onlyOurs),
		hostile.PatchNode("replace the labels by json patch", node, hostile.JSONPatch, `[{"op":"replace","path":"/metadata/labels","value":{"warm.stoker.dev/x":"disk"}}]`, onlyRemove),
		hostile.PatchNode("move a label by json patch", node, hostile.JSONPatch, `[{"op":"move","from":"/metadata/labels/warm.stoker.dev~1llama","path":"/metadata/labels/warm.stoker.dev~1mine"}]`, onlyRemove),
		hostile.PatchNode("add a label by strategic merge", node, hostile.Strategic, label("foreign", `"x"`), onlyRemove),
		hostile.PatchNode("replace the labels by strategic merge", node, hostile.Strategic, `{"metadata":{"labels":{"$patch":"replace"}}}`, onlyOurs),
		hostile.PatchNode("add a label by apply", node, hostile.Apply, apply(", labels: {warm.stoker.dev/mine: disk}"), onlyRemove),
		hostile.PatchNode("cordon", node, hostile.Merge, `{"spec":{"unschedulable":true}}`, noSpec),
		hostile.PatchNode("cordon while removing", node, hostile.Merge, `{"metadata":{"labels":{"warm.stoker.dev/llama":null}},"spec":{"unschedulable":true}}`, noSpec),
		hostile.PatchNode("add a taint", node, hostile.JSONPatch, `[{"op":"add","path":"/spec/taints/-","value":{"key":"a","effect":"NoExecute"}}]`, noSpec),
		hostile.PatchNode("lift the taint of cold nodes", node, hostile.JSONPatch, `[{"op":"remove","path":"/spec/taints"}]`, noSpec),
		hostile.PatchNode("lift all taints", node, hostile.Merge, `{"spec":{"taints":null}}`, noSpec),
		hostile.PatchNode("set the provider's id", node, hostile.Merge, `{"spec":{"providerID":"x://y"}}`, noSpec),
		hostile.PatchNode("add a finalizer", node, hostile.Merge, `{"metadata":{"finalizers":["example.com/held","example.com/more"]}}`, noOwner),
		hostile.PatchNode("remove the finalizers", node, hostile.Merge, `{"metadata":{"finalizers":null}}`, noOwner),
		hostile.PatchNode("give the node an owner", node, hostile.Merge, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"a","uid":"b"}]}}`, noOwner),
	}
}

// hostileElsewhere are requests that RBAC refuses.
func hostileElsewhere(node string) []hostile.Request {
	forbidden := func(name, method, path, body string) hostile.Request {
		r := hostile.Request{Name: name, Method: method, Path: path, Body: body, Reason: noRight}
		if method == http.MethodPatch {
			r.Media = hostile.Merge
		}
		return r
	}
	const policies = "/apis/admissionregistration.k8s.io/v1/"
	own := "/api/v1/namespaces/" + namespace
	elsewhere := forbidden("act as another account", http.MethodGet, "/api/v1/nodes", "")
	elsewhere.Impersonate, elsewhere.Reason = "system:admin", "cannot impersonate"
	return []hostile.Request{
		elsewhere,
		forbidden("create a node", http.MethodPost, "/api/v1/nodes", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"mine"}}`),
		{Name: "create a node by apply", Method: http.MethodPatch, Path: "/api/v1/nodes/mine", Media: hostile.Apply, Body: "apiVersion: v1\nkind: Node\nmetadata: {name: mine}\n", Reason: noRight},
		forbidden("replace a node", http.MethodPut, "/api/v1/nodes/"+node, fmt.Sprintf(`{"apiVersion":"v1","kind":"Node","metadata":{"name":%q}}`, node)),
		forbidden("delete a node", http.MethodDelete, "/api/v1/nodes/"+node, ""),
		forbidden("delete all nodes", http.MethodDelete, "/api/v1/nodes", ""),
		forbidden("patch a node's status", http.MethodPatch, "/api/v1/nodes/"+node+"/status", `{"status":{"conditions":[]}}`),
		forbidden("reach a node's kubelet", http.MethodGet, "/api/v1/nodes/"+node+"/proxy/pods", ""),
		forbidden("list all pods", http.MethodGet, "/api/v1/pods", ""),
		forbidden("list pods elsewhere", http.MethodGet, "/api/v1/namespaces/default/pods", ""),
		forbidden("get a pod", http.MethodGet, own+"/pods/as-"+sweeper, ""),
		forbidden("create a pod", http.MethodPost, own+"/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"a"}]}}`),
		forbidden("delete a pod", http.MethodDelete, own+"/pods/as-"+sweeper, ""),
		forbidden("delete all pods", http.MethodDelete, own+"/pods", ""),
		forbidden("patch a pod's status", http.MethodPatch, own+"/pods/as-"+sweeper+"/status", `{"status":{"phase":"Failed"}}`),
		forbidden("run a command in a pod", http.MethodPost, own+"/pods/as-"+sweeper+"/exec", ""),
		forbidden("read secrets", http.MethodGet, own+"/secrets", ""),
		forbidden("read all secrets", http.MethodGet, "/api/v1/secrets", ""),
		forbidden("read config maps", http.MethodGet, own+"/configmaps", ""),
		forbidden("change the model list", http.MethodPatch, own+"/configmaps/"+release+"-stoker-config", `{"data":{"config.yaml":"x"}}`),
		forbidden("make a token of the agents", http.MethodPost, own+"/serviceaccounts/"+release+"-stoker/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`),
		forbidden("take a lease", http.MethodPatch, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+node, `{"spec":{"holderIdentity":"a"}}`),
		forbidden("delete the agents", http.MethodDelete, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+release+"-stoker", ""),
		forbidden("delete its policy", http.MethodDelete, policies+"validatingadmissionpolicies/"+sweeper, ""),
		forbidden("change its policy", http.MethodPatch, policies+"validatingadmissionpolicies/"+sweeper, `{"spec":{"validations":[]}}`),
		forbidden("delete its policy's binding", http.MethodDelete, policies+"validatingadmissionpolicybindings/"+sweeper, ""),
		forbidden("widen its role", http.MethodPatch, "/apis/rbac.authorization.k8s.io/v1/clusterroles/"+sweeper, `{"rules":[]}`),
		forbidden("bind itself to another role", http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"a"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"}}`),
		forbidden("list events", http.MethodGet, "/apis/events.k8s.io/v1/namespaces/default/events", ""),
		forbidden("write events elsewhere", http.MethodPost, "/apis/events.k8s.io/v1/namespaces/"+namespace+"/events", `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"a"}}`),
	}
}

func testPolicy(b *bench) {
	b.victim("victim")
	cfg := b.as(sweeper)
	b.waitPolicy(cfg, "victim")
	before := b.get("victim")
	b.Run("nodes", func(t *testing.T) { hostile.Try(t, cfg, hostileNodes("victim")) })
	b.Run("elsewhere", func(t *testing.T) { hostile.Try(t, cfg, hostileElsewhere("victim")) })
	b.Run("a status through the front door does nothing", func(t *testing.T) {
		hostile.Try(t, cfg, []hostile.Request{hostile.PatchNode("status", "victim", hostile.Merge, `{"status":{"conditions":null,"capacity":{"nvidia.com/gpu":"0"}}}`, "")})
	})
	if after := b.get("victim"); after.ResourceVersion != before.ResourceVersion {
		b.Errorf("something went through, -before +after\n%s", cmp.Diff(before, after))
	}
	b.Run("allowed", func(t *testing.T) {
		hostile.Try(t, cfg, []hostile.Request{
			{Name: "read a node", Method: http.MethodGet, Path: "/api/v1/nodes/victim"},
			{Name: "list nodes", Method: http.MethodGet, Path: "/api/v1/nodes"},
			{Name: "watch nodes", Method: http.MethodGet, Path: "/api/v1/nodes?watch=true&timeoutSeconds=1"},
			{Name: "list pods here", Method: http.MethodGet, Path: "/api/v1/namespaces/" + namespace + "/pods"},
			{
				Name: "write an event", Method: http.MethodPost, Path: "/apis/events.k8s.io/v1/namespaces/default/events",
				Body: `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"a"},"eventTime":"2026-05-01T12:00:00.000000Z","reportingController":"a/b","reportingInstance":"c","action":"d","reason":"e","type":"Normal","regarding":{"kind":"Node","name":"victim"}}`,
			},
			hostile.PatchNode("change nothing", "victim", hostile.Merge, `{}`, ""),
			hostile.PatchNode("remove a label of ours", "victim", hostile.Merge, `{"metadata":{"labels":{"warm.stoker.dev/llama":null}}}`, ""),
			hostile.PatchNode("remove a label of the domain itself", "victim", hostile.Merge, `{"metadata":{"labels":{"stoker.dev/pool":null,"other.stoker.dev/a":null}}}`, ""),
			hostile.PatchNode("remove annotations of ours", "victim", hostile.Merge, `{"metadata":{"annotations":{"stoker.dev/status":null,"deep.er.stoker.dev/a":null}}}`, ""),
			hostile.PatchNode("remove a label by json patch", "victim", hostile.JSONPatch, `[{"op":"remove","path":"/metadata/labels/gpu.stoker.dev~1idle"}]`, ""),
		})
	})
	after := b.get("victim")
	for _, key := range []string{"warm.stoker.dev/llama", "stoker.dev/pool", "other.stoker.dev/a", "gpu.stoker.dev/idle"} {
		delete(before.Labels, key)
	}
	delete(before.Annotations, "stoker.dev/status")
	delete(before.Annotations, "deep.er.stoker.dev/a")
	for _, n := range []*corev1.Node{before, after} {
		n.ManagedFields, n.ResourceVersion = nil, ""
	}
	if diff := cmp.Diff(before, after); diff != "" {
		b.Errorf("after what is allowed, -want +got\n%s", diff)
	}
}

// Should somebody give the account every right on nodes, the policy still lets
// it do no more.
func testPolicyAlone(b *bench) {
	b.victim("guarded")
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "everything-with-nodes"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status", "nodes/proxy"}, Verbs: []string{"*"}}},
	}
	if _, err := b.client.RbacV1().ClusterRoles().Create(b.Context(), role, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: sweeper, Namespace: namespace}},
	}
	if _, err := b.client.RbacV1().ClusterRoleBindings().Create(b.Context(), binding, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := b.client.RbacV1().ClusterRoleBindings().Delete(context.WithoutCancel(b.Context()), role.Name, metav1.DeleteOptions{}); err != nil {
			b.Error(err)
		}
	})
	cfg := b.as(sweeper)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.wait("the role to be in force", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Get(ctx, "guarded", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		err = client.CoreV1().Nodes().Delete(ctx, "no-such-node", metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	before := b.get("guarded")
	hostile.Try(b.T, cfg, []hostile.Request{
		{Name: "create a node", Method: http.MethodPost, Path: "/api/v1/nodes", Body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"mine"}}`, Reason: onlyUpdate},
		{Name: "create a node by apply", Method: http.MethodPatch, Path: "/api/v1/nodes/mine", Media: hostile.Apply, Body: "apiVersion: v1\nkind: Node\nmetadata: {name: mine}\n", Reason: onlyUpdate},
		{Name: "delete a node", Method: http.MethodDelete, Path: "/api/v1/nodes/guarded", Reason: onlyUpdate},
		{Name: "delete all nodes", Method: http.MethodDelete, Path: "/api/v1/nodes", Reason: onlyUpdate},
		{Name: "patch a node's status", Method: http.MethodPatch, Path: "/api/v1/nodes/guarded/status", Media: hostile.Merge, Body: `{"status":{"capacity":{"nvidia.com/gpu":"0"}}}`, Reason: onlyUpdate},
		{Name: "label through the status", Method: http.MethodPatch, Path: "/api/v1/nodes/guarded/status", Media: hostile.Merge, Body: `{"metadata":{"labels":{"foreign":"x"}}}`, Reason: onlyUpdate},
		{Name: "reach a node's kubelet", Method: http.MethodGet, Path: "/api/v1/nodes/guarded/proxy/pods", Reason: onlyUpdate},
		{Name: "replace a node", Method: http.MethodPut, Path: "/api/v1/nodes/guarded", Body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"guarded"}}`, Reason: onlyOurs},
	})
	if after := b.get("guarded"); after.ResourceVersion != before.ResourceVersion {
		b.Errorf("something went through, -before +after\n%s", cmp.Diff(before, after))
	}
}
