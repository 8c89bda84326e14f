package charts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// clusterRules and eventRules are all that the agent may do with the API: in
// the whole cluster, and in the namespace where events about nodes live. Whoever
// lengthens these lists widens what a stolen token of one node can do.
func clusterRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
	}
}

func eventRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}

func TestRBACIsExactlyWhatTheAgentNeeds(t *testing.T) {
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t)} {
		t.Run(name, func(t *testing.T) {
			rules := map[string][]rbacv1.PolicyRule{}
			refs := map[string]string{}
			account := []rbacv1.Subject{{Kind: "ServiceAccount", Name: agentPod(t, values).ServiceAccountName, Namespace: "gpu-system"}}
			objs := renderAll(t, values)
			for _, obj := range objs {
				key, kind := objectKey(obj), obj.GetKind()
				switch kind {
				case "ClusterRole":
					var role rbacv1.ClusterRole
					find(t, objs, kind, key, &role)
					rules[kind+" "+key] = role.Rules
					if role.AggregationRule != nil {
						t.Error("the role grows with other roles")
					}
				case "Role":
					var role rbacv1.Role
					find(t, objs, kind, key, &role)
					rules[kind+" "+key] = role.Rules
				case "ClusterRoleBinding", "RoleBinding":
					var binding rbacv1.RoleBinding // both have the same fields
					find(t, objs, kind, key, &binding)
					refs[binding.RoleRef.Kind+" "+key] = binding.RoleRef.Name
					if diff := cmp.Diff(account, binding.Subjects); diff != "" {
						t.Errorf("subjects of %s differ (-wanted +rendered):\n%s", kind, diff)
					}
				default:
					if obj.GroupVersionKind().Group == rbacv1.GroupName {
						t.Errorf("unexpected %s %s", kind, key)
					}
				}
			}
			fullname := map[string]string{"default": "rel-stoker", "full": "rel-warm"}[name]
			events := "Role " + metav1.NamespaceDefault + "/" + fullname
			want := map[string][]rbacv1.PolicyRule{"ClusterRole " + fullname: clusterRules(), events: eventRules()}
			if diff := cmp.Diff(want, rules); diff != "" {
				t.Errorf("roles differ (-wanted +rendered):\n%s", diff)
			}
			wantRefs := map[string]string{"ClusterRole " + fullname: fullname, events: fullname}
			if diff := cmp.Diff(wantRefs, refs); diff != "" {
				t.Errorf("bindings differ (-wanted +rendered):\n%s", diff)
			}
		})
	}
}
