package charts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
)

// agentRules are all that the agent may do with the API. Whoever lengthens this
// list widens what a stolen token of one node can do to the cluster.
func agentRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}

func TestRBACIsExactlyWhatTheAgentNeeds(t *testing.T) {
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t)} {
		t.Run(name, func(t *testing.T) {
			objs := renderAll(t, values)
			count := 0
			var role rbacv1.ClusterRole
			var binding rbacv1.ClusterRoleBinding
			for _, obj := range objs {
				if obj.GroupVersionKind().Group != rbacv1.GroupName {
					continue
				}
				count++
				switch obj.GetKind() {
				case "ClusterRole":
					find(t, objs, "ClusterRole", obj.GetName(), &role)
				case "ClusterRoleBinding":
					find(t, objs, "ClusterRoleBinding", obj.GetName(), &binding)
				}
			}
			if count != 2 {
				t.Errorf("want one ClusterRole and one ClusterRoleBinding, got %d RBAC objects", count)
			}
			if diff := cmp.Diff(agentRules(), role.Rules); diff != "" {
				t.Errorf("rules differ (-wanted +rendered):\n%s", diff)
			}
			if role.AggregationRule != nil {
				t.Error("the role grows with other roles")
			}
			account := agentPod(t, values).ServiceAccountName
			want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: "gpu-system"}}
			if diff := cmp.Diff(want, binding.Subjects); diff != "" {
				t.Errorf("subjects differ (-wanted +rendered):\n%s", diff)
			}
			if binding.RoleRef.Kind != "ClusterRole" || binding.RoleRef.Name != role.Name {
				t.Errorf("the binding refers to %+v, want %s", binding.RoleRef, role.Name)
			}
		})
	}
}
