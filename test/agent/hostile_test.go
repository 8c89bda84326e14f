package agent

import (
	"fmt"
	"net/http"

	"github.com/stoker-project/stoker/test/hostile"
)

func label(key, value string) string {
	return fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, key, value)
}

func annotation(key, value string) string {
	return fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
}

// againstOwnNode is what an agent must not do to its own Node. The taints are:
// cold, foreign, cold with another effect.
func againstOwnNode() []hostile.Request {
	own := func(name, media, body, reason string) hostile.Request {
		return hostile.PatchNode(name, mine, media, body, reason)
	}
	apply := func(rest string) string {
		return "apiVersion: v1\nkind: Node\nmetadata: {name: " + mine + rest + "}\n"
	}
	return []hostile.Request{
		own("add a foreign label", hostile.Merge, label("foreign", `"x"`), ownLabels),
		own("change a foreign label", hostile.Merge, label("team", `"b"`), ownLabels),
		own("remove a foreign label", hostile.Merge, label("team", "null"), ownLabels),
		own("change the hostname", hostile.Merge, label("kubernetes.io/hostname", `"other"`), ownLabels),
		own("remove the hostname", hostile.Merge, label("kubernetes.io/hostname", "null"), ownLabels),
		own("become a control plane", hostile.Merge, label("node-role.kubernetes.io/control-plane", `""`), ownLabels),
		own("claim isolation", hostile.Merge, label("node-restriction.kubernetes.io/safe", `"true"`), ownLabels),
		own("claim another product", hostile.Merge, label("nvidia.com/gpu.product", `"B200"`), ownLabels),
		own("claim another zone", hostile.Merge, label("topology.kubernetes.io/zone", `"b"`), ownLabels),
		own("change people's label in our domain", hostile.Merge, label("stoker.dev/pool", `"y"`), ownLabels),
		own("remove people's label in our domain", hostile.Merge, label("other.stoker.dev/a", "null"), ownLabels),
		own("add a label to our domain", hostile.Merge, label("stoker.dev/mine", `"x"`), ownLabels),
		own("change a label of a domain that ends alike", hostile.Merge, label("xwarm.stoker.dev/a", `"y"`), ownLabels),
		own("change a label of a domain that begins alike", hostile.Merge, label("warm.stoker.dev.example.com/a", `"y"`), ownLabels),
		own("add a label below our domains", hostile.Merge, label("a.warm.stoker.dev/a", `"y"`), ownLabels),
		own("remove all labels", hostile.Merge, `{"metadata":{"labels":null}}`, ownLabels),
		own("hide a foreign label among ours", hostile.Merge, `{"metadata":{"labels":{"warm.stoker.dev/llama":"ram","foreign":"x"}}}`, ownLabels),
		own("replace the labels by json patch", hostile.JSONPatch, `[{"op":"replace","path":"/metadata/labels","value":{"warm.stoker.dev/x":"disk"}}]`, ownLabels),
		own("move a label by json patch", hostile.JSONPatch, `[{"op":"move","from":"/metadata/labels/team","path":"/metadata/labels/warm.stoker.dev~1team"}]`, ownLabels),
		own("replace the labels by strategic merge", hostile.Strategic, `{"metadata":{"labels":{"$patch":"replace"}}}`, ownLabels),
		own("take a foreign label by apply", hostile.Apply, apply(", labels: {team: b}"), ownLabels),
		own("add an annotation", hostile.Merge, annotation("foreign", `"x"`), ownAnnotation),
		own("change a foreign annotation", hostile.Merge, annotation("note", `"yours"`), ownAnnotation),
		own("remove a foreign annotation", hostile.Merge, annotation("note", "null"), ownAnnotation),
		own("change people's annotation in our domain", hostile.Merge, annotation("stoker.dev/note", `"yours"`), ownAnnotation),
		own("remove all annotations", hostile.Merge, `{"metadata":{"annotations":null}}`, ownAnnotation),
		own("cordon", hostile.Merge, `{"spec":{"unschedulable":true}}`, noSpec),
		own("cordon by apply", hostile.Apply, apply("")+"spec: {unschedulable: true}\n", noSpec),
		own("set the provider's id", hostile.Merge, `{"spec":{"providerID":"x://y"}}`, noSpec),
		own("take an address range", hostile.Merge, `{"spec":{"podCIDR":"10.9.0.0/24","podCIDRs":["10.9.0.0/24"]}}`, noSpec),
		own("cordon while lifting the taint", hostile.JSONPatch, `[{"op":"remove","path":"/spec/taints/0"},{"op":"add","path":"/spec/unschedulable","value":true}]`, noSpec),
		own("lift a foreign taint", hostile.JSONPatch, `[{"op":"remove","path":"/spec/taints/1"}]`, onlyCold),
		own("lift all taints", hostile.Merge, `{"spec":{"taints":null}}`, onlyCold),
		own("lift all taints by apply", hostile.Apply, apply("")+"spec: {taints: []}\n", onlyCold),
		own("lift a foreign taint with ours", hostile.JSONPatch, `[{"op":"remove","path":"/spec/taints/1"},{"op":"remove","path":"/spec/taints/0"}]`, onlyCold),
		own("add a taint", hostile.JSONPatch, `[{"op":"add","path":"/spec/taints/-","value":{"key":"a","effect":"NoExecute"}}]`, onlyCold),
		own("add a taint in place of ours", hostile.JSONPatch, `[{"op":"replace","path":"/spec/taints/0","value":{"key":"a","effect":"NoExecute"}}]`, onlyCold),
		own("let our taint throw pods out", hostile.JSONPatch, `[{"op":"replace","path":"/spec/taints/0/effect","value":"NoExecute"}]`, onlyCold),
		own("add our taint once more", hostile.JSONPatch, `[{"op":"add","path":"/spec/taints/-","value":{"key":"stoker.dev/cold","effect":"NoExecute"}}]`, onlyCold),
		own("change a foreign taint", hostile.JSONPatch, `[{"op":"replace","path":"/spec/taints/1/value","value":"b"}]`, onlyCold),
		own("add a finalizer", hostile.Merge, `{"metadata":{"finalizers":["example.com/held","example.com/more"]}}`, noOwner),
		own("remove the finalizers", hostile.Merge, `{"metadata":{"finalizers":null}}`, noOwner),
		own("give the node an owner", hostile.Merge, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"a","uid":"b"}]}}`, noOwner),
	}
}

// againstOtherNodes is what an agent may do to its own Node, tried on another.
func againstOtherNodes() []hostile.Request {
	return []hostile.Request{
		hostile.PatchNode("label another node", notMine, hostile.Merge, label("warm.stoker.dev/llama", `"ram"`), ownNode),
		hostile.PatchNode("unlabel another node", notMine, hostile.Merge, label("warm.stoker.dev/llama", "null"), ownNode),
		hostile.PatchNode("label another node by apply", notMine, hostile.Apply, "apiVersion: v1\nkind: Node\nmetadata: {name: not-mine, labels: {warm.stoker.dev/llama: ram}}\n", ownNode),
		hostile.PatchNode("speak for another node", notMine, hostile.Merge, annotation("stoker.dev/status", `"{\"version\":1}"`), ownNode),
		hostile.PatchNode("lift another node's taint", notMine, hostile.JSONPatch, `[{"op":"remove","path":"/spec/taints/0"}]`, ownNode),
		hostile.PatchNode("change nothing of another node", notMine, hostile.Merge, `{}`, ownNode),
		hostile.PatchNode("cordon another node", notMine, hostile.Merge, `{"spec":{"unschedulable":true}}`, ownNode),
	}
}

// elsewhere is what RBAC refuses.
func elsewhere() []hostile.Request {
	forbidden := func(name, method, path, body string) hostile.Request {
		r := hostile.Request{Name: name, Method: method, Path: path, Body: body, Reason: noRight}
		if method == http.MethodPatch {
			r.Media = hostile.Merge
		}
		return r
	}
	own := "/api/v1/namespaces/" + namespace
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	return []hostile.Request{
		{Name: "create a node by apply", Method: http.MethodPatch, Path: "/api/v1/nodes/new", Media: hostile.Apply, Body: "apiVersion: v1\nkind: Node\nmetadata: {name: new}\n", Reason: noRight},
		forbidden("create a node", http.MethodPost, "/api/v1/nodes", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"new"}}`),
		forbidden("replace its node", http.MethodPut, "/api/v1/nodes/"+mine, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"mine"}}`),
		forbidden("delete its node", http.MethodDelete, "/api/v1/nodes/"+mine, ""),
		forbidden("delete another node", http.MethodDelete, "/api/v1/nodes/"+notMine, ""),
		forbidden("delete all nodes", http.MethodDelete, "/api/v1/nodes", ""),
		forbidden("list nodes", http.MethodGet, "/api/v1/nodes", ""),
		forbidden("watch nodes", http.MethodGet, "/api/v1/nodes?watch=true&timeoutSeconds=1", ""),
		forbidden("patch its node's status", http.MethodPatch, "/api/v1/nodes/"+mine+"/status", `{"status":{"capacity":{"nvidia.com/gpu":"99"}}}`),
		forbidden("reach a kubelet", http.MethodGet, "/api/v1/nodes/"+mine+"/proxy/pods", ""),
		forbidden("get a pod", http.MethodGet, own+"/pods/agent-"+mine, ""),
		forbidden("create a pod", http.MethodPost, own+"/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"a"}]}}`),
		forbidden("change a pod", http.MethodPatch, own+"/pods/agent-"+mine, label("a", `"b"`)),
		forbidden("delete a pod", http.MethodDelete, own+"/pods/agent-"+notMine, ""),
		forbidden("evict a pod", http.MethodPost, own+"/pods/agent-"+notMine+"/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"agent-not-mine"}}`),
		forbidden("bind a pod", http.MethodPost, own+"/pods/agent-"+mine+"/binding", `{"apiVersion":"v1","kind":"Binding","target":{"kind":"Node","name":"mine"}}`),
		forbidden("run a command in a pod", http.MethodPost, own+"/pods/agent-"+mine+"/exec", ""),
		forbidden("read a pod's log", http.MethodGet, own+"/pods/agent-"+mine+"/log", ""),
		forbidden("patch a pod's status", http.MethodPatch, own+"/pods/agent-"+mine+"/status", `{"status":{"phase":"Failed"}}`),
		forbidden("read secrets", http.MethodGet, own+"/secrets", ""),
		forbidden("read all secrets", http.MethodGet, "/api/v1/secrets", ""),
		forbidden("read config maps", http.MethodGet, own+"/configmaps", ""),
		forbidden("change the model list", http.MethodPatch, own+"/configmaps/"+account+"-config", `{"data":{"config.yaml":"x"}}`),
		forbidden("read claims", http.MethodGet, "/api/v1/persistentvolumeclaims", ""),
		forbidden("read volumes", http.MethodGet, "/api/v1/persistentvolumes", ""),
		forbidden("make a token", http.MethodPost, own+"/serviceaccounts/"+account+"/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`),
		forbidden("make a token of the sweeper", http.MethodPost, own+"/serviceaccounts/"+account+"-sweeper/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`),
		forbidden("renew its node's lease", http.MethodPatch, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+mine, `{"spec":{"holderIdentity":"a"}}`),
		forbidden("take a lease", http.MethodPost, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"a"}}`),
		forbidden("delete the agents", http.MethodDelete, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+account, ""),
		forbidden("delete its policy", http.MethodDelete, policyResource+"validatingadmissionpolicies/"+account, ""),
		forbidden("change its policy", http.MethodPatch, policyResource+"validatingadmissionpolicies/"+account, `{"spec":{"validations":[]}}`),
		forbidden("delete its policy's binding", http.MethodDelete, policyResource+"validatingadmissionpolicybindings/"+account, ""),
		forbidden("let its policy's binding only warn", http.MethodPatch, policyResource+"validatingadmissionpolicybindings/"+account, `{"spec":{"validationActions":["Warn"]}}`),
		forbidden("add a webhook", http.MethodPost, policyResource+"mutatingwebhookconfigurations", `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"MutatingWebhookConfiguration","metadata":{"name":"a"}}`),
		forbidden("widen its role", http.MethodPatch, rbac+"clusterroles/"+account, `{"rules":[]}`),
		forbidden("bind itself to another role", http.MethodPost, rbac+"clusterrolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"a"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"}}`),
		forbidden("ask for a certificate", http.MethodPost, "/apis/certificates.k8s.io/v1/certificatesigningrequests", `{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"a"}}`),
		forbidden("read events", http.MethodGet, "/apis/events.k8s.io/v1/namespaces/default/events", ""),
		forbidden("write events elsewhere", http.MethodPost, "/apis/events.k8s.io/v1/namespaces/"+namespace+"/events", `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"a"}}`),
		forbidden("delete events", http.MethodDelete, "/apis/events.k8s.io/v1/namespaces/default/events", ""),
		{Name: "act as an administrator", Method: http.MethodGet, Path: "/api/v1/nodes", Impersonate: "system:admin", Reason: "cannot impersonate"},
		{Name: "act as a node", Method: http.MethodGet, Path: "/api/v1/nodes", Impersonate: "system:node:" + notMine, Reason: "cannot impersonate"},
		{
			Name: "act as itself on another node", Method: http.MethodPatch, Path: "/api/v1/nodes/" + notMine, Media: hostile.Merge, Body: label("warm.stoker.dev/llama", `"ram"`),
			Impersonate: "system:serviceaccount:" + namespace + ":" + account, Header: map[string]string{"Impersonate-Extra-authentication.kubernetes.io%2fnode-name": notMine},
			Reason: "cannot impersonate",
		},
		{
			// Only the front proxy's certificate makes these count.
			Name: "say by header where it is", Method: http.MethodPatch, Path: "/api/v1/nodes/" + notMine, Media: hostile.Merge, Body: label("warm.stoker.dev/llama", `"ram"`),
			Header: map[string]string{"X-Remote-User": "system:serviceaccount:" + namespace + ":" + account, "X-Remote-Extra-authentication.kubernetes.io%2fnode-name": notMine},
			Reason: ownNode,
		},
	}
}
