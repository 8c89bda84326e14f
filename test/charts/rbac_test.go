package charts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// grant is rules in one namespace; "" is the whole cluster.
type grant struct {
	namespace string
	rules     []rbacv1.PolicyRule
}

func rule(group, resource string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
}

// agentGrants are all that the agent may do with the API. Whoever lengthens
// this list widens what a stolen token of one node can do.
func agentGrants(release, values string) []grant {
	nodes := []rbacv1.PolicyRule{rule("", "nodes", "get", "patch"), rule("", "pods", "list", "watch")}
	events := grant{metav1.NamespaceDefault, []rbacv1.PolicyRule{rule("events.k8s.io", "events", "create", "patch")}}
	lease := grant{release, []rbacv1.PolicyRule{rule("coordination.k8s.io", "leases", "get", "create", "update")}}
	switch values {
	case "full":
		// And to agree who writes into a volume that nodes share, and to run on OpenShift.
		scc := rule("security.openshift.io", "securitycontextconstraints", "use")
		scc.ResourceNames = []string{"stoker-agents"}
		lease.rules = append([]rbacv1.PolicyRule{scc}, lease.rules...)
		return []grant{{"", []rbacv1.PolicyRule{nodes[0], rule("", "nodes", "list"), nodes[1]}}, lease, events}
	case "readonly":
		// And to tell each other what was read of one that nobody writes.
		return []grant{{"", nodes}, lease, events}
	}
	if values == "long" {
		// And to write what has no room on a Node.
		return []grant{{"", nodes}, {release, []rbacv1.PolicyRule{rule("coordination.k8s.io", "leases", "create", "patch")}}, events}
	}
	return []grant{{"", nodes}, events}
}

// longValues have a list of which a Node's annotation may have no room.
func longValues() []byte {
	var b strings.Builder
	b.WriteString("models:\n")
	for i := range 21 {
		fmt.Fprintf(&b, "- {name: m%d, source: 'hf://o/m%d'}\n", i, i)
	}
	return []byte(b.String())
}

// sweeperGrants are all that the sweeper may do, with the release's volumes by name;
// policies narrow its patches.
func sweeperGrants(release string, volumes ...string) []grant {
	cluster := []rbacv1.PolicyRule{rule("", "nodes", "get", "list", "watch", "patch")}
	if len(volumes) > 0 {
		byName := rule("", "persistentvolumes", "get", "patch")
		byName.ResourceNames = volumes
		cluster = append(cluster, byName)
	}
	return []grant{
		{"", cluster},
		{release, []rbacv1.PolicyRule{rule("", "pods", "list", "watch")}},
		{metav1.NamespaceDefault, []rbacv1.PolicyRule{rule("events.k8s.io", "events", "create")}},
	}
}

// unlabelGrants are all that the Job of the post-delete hook may do, under a
// policy as the sweeper's.
func unlabelGrants(string) []grant {
	return []grant{{"", []rbacv1.PolicyRule{rule("", "nodes", "list", "patch"), rule("apps", "daemonsets", "list")}}}
}

// grants reads what rendered roles and bindings give to each account.
func grants(t *testing.T, objs []*unstructured.Unstructured) map[string][]grant {
	t.Helper()
	roles := map[string][]rbacv1.PolicyRule{}
	got := map[string][]grant{}
	for _, obj := range objs {
		key, kind := objectKey(obj), obj.GetKind()
		switch kind {
		case "ClusterRole":
			var role rbacv1.ClusterRole
			find(t, objs, kind, key, &role)
			roles[kind+" "+key] = role.Rules
			if role.AggregationRule != nil {
				t.Errorf("%s %s grows with other roles", kind, key)
			}
		case "Role":
			var role rbacv1.Role
			find(t, objs, kind, key, &role)
			roles[kind+" "+key] = role.Rules
		case "ClusterRoleBinding", "RoleBinding":
		default:
			if obj.GroupVersionKind().Group == rbacv1.GroupName {
				t.Errorf("unexpected %s %s", kind, key)
			}
		}
	}
	for _, obj := range objs {
		key, kind := objectKey(obj), obj.GetKind()
		if kind != "ClusterRoleBinding" && kind != "RoleBinding" {
			continue
		}
		var binding rbacv1.RoleBinding // both have the same fields
		find(t, objs, kind, key, &binding)
		role := binding.RoleRef.Kind + " " + binding.RoleRef.Name
		if kind == "RoleBinding" {
			role = binding.RoleRef.Kind + " " + binding.Namespace + "/" + binding.RoleRef.Name
		}
		rules, ok := roles[role]
		if !ok {
			t.Errorf("%s %s gives %s, which the chart does not have", kind, key, role)
		}
		if len(binding.Subjects) != 1 || binding.Subjects[0].Kind != "ServiceAccount" || binding.Subjects[0].Namespace != "gpu-system" {
			t.Fatalf("%s %s has the subjects %v", kind, key, binding.Subjects)
		}
		account := binding.Subjects[0].Name
		got[account] = append(got[account], grant{binding.Namespace, rules})
	}
	return got
}

func TestRBACIsExactlyWhatTheCodeNeeds(t *testing.T) {
	volumes := map[string][]string{
		"full": {"rel-warm.team-a", "rel-warm.team-b", "rel-warm-store"}, "readonly": {"rel-stoker.team-d", "rel-stoker-store"},
	}
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t), "readonly": readOnlyValues(t), "long": longValues()} {
		t.Run(name, func(t *testing.T) {
			for account, tc := range map[string]struct {
				objs []*unstructured.Unstructured
				want []grant
			}{
				agentPod(t, values).ServiceAccountName:        {renderAll(t, values), agentGrants("gpu-system", name)},
				sweeperPod(t, values).Spec.ServiceAccountName: {renderAll(t, values), sweeperGrants("gpu-system", volumes[name]...)},
				unlabelPod(t, values).ServiceAccountName:      {renderHooks(t, values), unlabelGrants("gpu-system")},
			} {
				all := grants(t, tc.objs)
				got := map[string][]rbacv1.PolicyRule{}
				for _, g := range all[account] {
					got[g.namespace] = append(got[g.namespace], g.rules...)
				}
				want := map[string][]rbacv1.PolicyRule{}
				for _, g := range tc.want {
					want[g.namespace] = g.rules
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("rights of %s differ (-wanted +rendered):\n%s", account, diff)
				}
			}
			if n, m := len(grants(t, renderAll(t, values))), len(grants(t, renderHooks(t, values))); n != 2 || m != 1 {
				t.Errorf("the chart gives rights to %d accounts, its hook to %d", n, m)
			}
		})
	}
}
