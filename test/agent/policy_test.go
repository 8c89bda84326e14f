package agent

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/hostile"
)

// What the agent's policy says of what it refuses.
const (
	ownNode        = "an agent may change its own Node only, the one that its pod's token names"
	ownLabels      = "an agent may change labels of warm.stoker.dev, rev.stoker.dev, fits.stoker.dev and gpu.stoker.dev, and no others"
	ownAnnotation  = "an agent may change the annotation stoker.dev/status, and no other"
	noSpec         = "an agent may not change the spec of its Node, but for lifting the taint stoker.dev/cold"
	onlyCold       = "an agent may lift the taint stoker.dev/cold, and add, change or remove no other"
	noOwner        = "this account may not change finalizers or ownerReferences of a Node"
	onlyUpdate     = "an agent may update its Node, and do nothing else with Nodes and their subresources"
	noRight        = "is forbidden: User \"system:serviceaccount:" + namespace + ":" + account + "\" cannot"
	foreignTaint   = "example.com/dedicated"
	coldTaintKey   = "stoker.dev/cold"
	mine, notMine  = "mine", "not-mine"
	policyResource = "/apis/admissionregistration.k8s.io/v1/"
)

// The policy of the agents' account, tried with the token of one agent's pod.
func TestAgentPolicy(t *testing.T) {
	c := startCluster(t)
	for _, name := range []string{mine, notMine} {
		addVictim(t, c, name)
	}
	cfg := agentConfig(t, c, mine)
	waitPolicy(t, cfg)
	before := map[string]*corev1.Node{mine: getNode(t, c, mine), notMine: getNode(t, c, notMine)}
	untouched := func(t *testing.T) {
		t.Helper()
		for name, n := range before {
			if now := getNode(t, c, name); now.ResourceVersion != n.ResourceVersion {
				t.Errorf("something went through, -before +after\n%s", cmp.Diff(n, now))
			}
		}
	}
	t.Run("own node", func(t *testing.T) {
		hostile.Try(t, cfg, againstOwnNode())
		untouched(t)
	})
	t.Run("other nodes", func(t *testing.T) {
		hostile.Try(t, cfg, againstOtherNodes())
		untouched(t)
	})
	t.Run("elsewhere", func(t *testing.T) {
		hostile.Try(t, cfg, elsewhere())
		untouched(t)
	})
	t.Run("tokens", func(t *testing.T) {
		testTokens(t, c, cfg)
		untouched(t)
	})
	t.Run("with every right on nodes", func(t *testing.T) {
		testWithoutRBAC(t, c, cfg)
		untouched(t)
	})
	t.Run("status through the front door does nothing", func(t *testing.T) {
		hostile.Try(t, cfg, []hostile.Request{hostile.PatchNode("status", mine, hostile.Merge, `{"status":{"conditions":null,"capacity":{"nvidia.com/gpu":"0"}}}`, "")})
		untouched(t)
	})
	t.Run("allowed", func(t *testing.T) { testAllowed(t, c, cfg, before[mine]) })
	t.Run("where nodes share a volume", func(t *testing.T) { testSharedRights(t, c, cfg) })
	t.Run("where lists are long", func(t *testing.T) { testStatusLease(t, c, cfg) })
}

// testSharedRights upgrades the release to a volume that nodes share: the agent may
// list Nodes then, and write the one Lease, and nothing else that it could not before.
// It comes last: rights that were given stay in this cluster.
func testSharedRights(t *testing.T, c *cluster.Cluster, cfg *rest.Config) {
	const (
		nodes  = "/api/v1/nodes"
		leases = "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases"
		lease  = `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"a"}}`
	)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("on a disk of its own an agent lists nodes: %v", err)
	}
	objs, err := charts.Render([]byte(`{models: [], volume: {mode: shared, shared: {source: {nfs: {server: nas, path: /models}}}}}`), release, namespace)
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	err = cluster.WaitFor(t.Context(), "the right to list nodes", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	metadataOnly := map[string]string{"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
	hostile.Try(t, cfg, []hostile.Request{
		{Name: "list who carries a label", Method: http.MethodGet, Path: nodes + "?limit=500&labelSelector=warm.stoker.dev/llama", Header: metadataOnly},
		{Name: "make the lease", Method: http.MethodPost, Path: leases, Body: lease},
		{Name: "read the lease", Method: http.MethodGet, Path: leases + "/a"},
		{Name: "delete the lease", Method: http.MethodDelete, Path: leases + "/a", Reason: noRight},
		{Name: "list leases", Method: http.MethodGet, Path: leases, Reason: noRight},
		{Name: "patch the lease", Method: http.MethodPatch, Path: leases + "/a", Media: hostile.Merge, Body: `{}`, Reason: noRight},
	})
	got, err := client.CoordinationV1().Leases(namespace).Get(t.Context(), "a", metav1.GetOptions{})
	if err == nil {
		_, err = client.CoordinationV1().Leases(namespace).Update(t.Context(), got, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Errorf("renew the lease: %v", err)
	}
	still := slices.DeleteFunc(elsewhere(), func(r hostile.Request) bool { return r.Name == "list nodes" })
	if len(still) != len(elsewhere())-1 {
		t.Fatal("what is refused elsewhere does not list nodes any more")
	}
	hostile.Try(t, cfg, still)
	hostile.Try(t, cfg, againstOtherNodes())
}

// addVictim makes a node with one of everything that an agent might want to
// take or keep.
func addVictim(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	if _, err := c.AddNode(t.Context(), cluster.NodeSpec{
		Name: name, GPUs: 8,
		Labels: map[string]string{
			"team": "a", "stoker.dev/pool": "x", "other.stoker.dev/a": "x", "xwarm.stoker.dev/a": "x", "warm.stoker.dev.example.com/a": "x",
			"warm.stoker.dev/llama": "disk", "gpu.stoker.dev/idle": "8", "nvidia.com/gpu.product": "H200",
		},
		Annotations: map[string]string{"note": "mine", "stoker.dev/note": "mine", "stoker.dev/status": "{}"},
		Taints: []corev1.Taint{
			{Key: coldTaintKey, Effect: corev1.TaintEffectNoSchedule},
			{Key: foreignTaint, Value: "a", Effect: corev1.TaintEffectNoSchedule},
			{Key: coldTaintKey, Effect: corev1.TaintEffectPreferNoSchedule},
		},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client().CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/held"]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func getNode(t *testing.T, c *cluster.Cluster, name string) *corev1.Node {
	t.Helper()
	n, err := c.Client().CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// agentConfig is what the agent's pod on a node has.
func agentConfig(t *testing.T, c *cluster.Cluster, node string) *rest.Config {
	t.Helper()
	path, err := c.AgentKubeconfig(t.Context(), cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: node, Pod: "agent-" + node})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

// waitPolicy waits until the API server has read the policy: it does so a
// moment after it was created.
func waitPolicy(t *testing.T, cfg *rest.Config) {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.WaitFor(t.Context(), "the policy to be in force", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Patch(ctx, mine, types.MergePatchType, []byte(`{"metadata":{"labels":{"foreign":"x"}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil && strings.Contains(err.Error(), "denied request") {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// testTokens tries tokens of the account that name no node, another one, or
// were changed.
func testTokens(t *testing.T, c *cluster.Cluster, cfg *rest.Config) {
	warm := func(name, node, reason string) []hostile.Request {
		return []hostile.Request{hostile.PatchNode(name, node, hostile.Merge, label("warm.stoker.dev/llama", `"ram"`), reason)}
	}
	with := func(bound *authenticationv1.BoundObjectReference) *rest.Config {
		t.Helper()
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
		made, err := c.Client().CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		other := rest.CopyConfig(cfg)
		other.BearerToken = made.Status.Token
		return other
	}
	hostile.Try(t, with(nil), warm("bound to no pod", mine, ownNode))
	pending, err := c.Client().CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pending"},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, NodeSelector: map[string]string{"no": "node"},
			Containers: []corev1.Container{{Name: "a", Image: "a"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hostile.Try(t, with(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pending.Name, UID: pending.UID}), warm("bound to a pod on no node", mine, ownNode))
	hostile.Try(t, agentConfig(t, c, notMine), warm("of an agent elsewhere", mine, ownNode))
	t.Run("with a forged claim", func(t *testing.T) {
		parts := strings.Split(cfg.BearerToken, ".")
		claims, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		forged := strings.Replace(string(claims), fmt.Sprintf(`"node":{"name":%q`, mine), fmt.Sprintf(`"node":{"name":%q`, notMine), 1)
		if forged == string(claims) {
			t.Fatalf("the token names no node: %s", claims)
		}
		other := rest.CopyConfig(cfg)
		for name, token := range map[string]string{
			"signature of another": strings.Join([]string{parts[0], base64.RawURLEncoding.EncodeToString([]byte(forged)), parts[2]}, "."),
			"no signature":         base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(forged)) + ".",
		} {
			other.BearerToken = token
			client, err := kubernetes.NewForConfig(other)
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.CoreV1().Nodes().Patch(t.Context(), notMine, types.MergePatchType, []byte(label("warm.stoker.dev/llama", `"ram"`)), metav1.PatchOptions{})
			if !apierrors.IsUnauthorized(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// testWithoutRBAC gives the account every right on nodes: the policy still lets
// it do no more.
func testWithoutRBAC(t *testing.T, c *cluster.Cluster, cfg *rest.Config) {
	rights := c.Client().RbacV1()
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "everything-with-nodes"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status", "nodes/proxy"}, Verbs: []string{"*"}}},
	}
	if _, err := rights.ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: namespace}},
	}
	if _, err := rights.ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rights.ClusterRoleBindings().Delete(t.Context(), role.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.WaitFor(t.Context(), "the role to be in force", func(ctx context.Context) (bool, error) {
		err := client.CoreV1().Nodes().Delete(ctx, "no-such-node", metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/nodes/"
	hostile.Try(t, cfg, []hostile.Request{
		{Name: "create a node", Method: http.MethodPost, Path: "/api/v1/nodes", Body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"new"}}`, Reason: onlyUpdate},
		{Name: "create a node by apply", Method: http.MethodPatch, Path: path + "new", Media: hostile.Apply, Body: "apiVersion: v1\nkind: Node\nmetadata: {name: new}\n", Reason: onlyUpdate},
		{Name: "delete its node", Method: http.MethodDelete, Path: path + mine, Reason: onlyUpdate},
		{Name: "delete all nodes", Method: http.MethodDelete, Path: "/api/v1/nodes", Reason: onlyUpdate},
		{Name: "patch its status", Method: http.MethodPatch, Path: path + mine + "/status", Media: hostile.Merge, Body: `{"status":{"capacity":{"nvidia.com/gpu":"99"}}}`, Reason: onlyUpdate},
		{Name: "label through the status", Method: http.MethodPatch, Path: path + mine + "/status", Media: hostile.Merge, Body: label("foreign", `"x"`), Reason: onlyUpdate},
		{Name: "reach its kubelet", Method: http.MethodGet, Path: path + mine + "/proxy/pods", Reason: onlyUpdate},
		{Name: "replace its node", Method: http.MethodPut, Path: path + mine, Body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"mine"}}`, Reason: ownLabels},
		{Name: "replace another node", Method: http.MethodPut, Path: path + notMine, Body: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"not-mine"}}`, Reason: ownNode},
	})
}

// testAllowed is all that is left, the stated residual included: an agent can
// read any Node, and list every pod of the cluster.
func testAllowed(t *testing.T, c *cluster.Cluster, cfg *rest.Config, before *corev1.Node) {
	const events = "/apis/events.k8s.io/v1/namespaces/default/events"
	hostile.Try(t, cfg, []hostile.Request{
		{Name: "read its node", Method: http.MethodGet, Path: "/api/v1/nodes/" + mine},
		{Name: "read another node", Method: http.MethodGet, Path: "/api/v1/nodes/" + notMine},
		{Name: "list pods here", Method: http.MethodGet, Path: "/api/v1/pods?fieldSelector=spec.nodeName=" + mine},
		{Name: "list all pods", Method: http.MethodGet, Path: "/api/v1/pods"},
		{Name: "watch pods", Method: http.MethodGet, Path: "/api/v1/pods?watch=true&timeoutSeconds=1"},
		hostile.PatchNode("change nothing", mine, hostile.Merge, `{}`, ""),
		hostile.PatchNode("label by apply", mine, hostile.Apply, "apiVersion: v1\nkind: Node\nmetadata: {name: mine, labels: {warm.stoker.dev/llama: ram, rev.stoker.dev/llama: abc, fits.stoker.dev/llama: '1', gpu.stoker.dev/free-gib: '4'}, annotations: {stoker.dev/status: '{}'}}\n", ""),
		hostile.PatchNode("prune by apply", mine, hostile.Apply, "apiVersion: v1\nkind: Node\nmetadata: {name: mine, labels: {warm.stoker.dev/llama: disk}}\n", ""),
		hostile.PatchNode("unlabel", mine, hostile.Merge, label("gpu.stoker.dev/idle", "null"), ""),
		hostile.PatchNode("lift the taint", mine, hostile.JSONPatch, `[{"op":"test","path":"/spec/taints/0","value":{"key":"stoker.dev/cold","effect":"NoSchedule"}},{"op":"remove","path":"/spec/taints/0"}]`, ""),
		hostile.PatchNode("lift it with its other effect", mine, hostile.JSONPatch, `[{"op":"test","path":"/spec/taints/1","value":{"key":"stoker.dev/cold","effect":"PreferNoSchedule"}},{"op":"remove","path":"/spec/taints/1"}]`, ""),
		{
			Name: "write an event", Method: http.MethodPost, Path: events,
			Body: `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"a"},"eventTime":"2026-05-01T12:00:00.000000Z","reportingController":"a/b","reportingInstance":"c","action":"d","reason":"e","type":"Normal","regarding":{"kind":"Node","name":"mine"}}`,
		},
		{Name: "count an event", Method: http.MethodPatch, Path: events + "/a", Media: hostile.Merge, Body: `{"series":{"count":2,"lastObservedTime":"2026-05-01T12:01:00.000000Z"}}`},
	})
	after := getNode(t, c, mine)
	delete(before.Labels, "gpu.stoker.dev/idle")
	before.Spec.Taints = []corev1.Taint{{Key: foreignTaint, Value: "a", Effect: corev1.TaintEffectNoSchedule}}
	for _, n := range []*corev1.Node{before, after} {
		n.ManagedFields, n.ResourceVersion = nil, ""
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after what is allowed, -want +got\n%s", diff)
	}
}
