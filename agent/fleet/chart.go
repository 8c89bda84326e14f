package fleet

import (
	"fmt"
	"strings"
)

// presentLabel is by which the chart selects nodes unless it is told otherwise.
const presentLabel = "nvidia.com/gpu.present"

type taint struct{ Key, Value, Effect string }

func (t taint) String() string {
	if t.Value == "" {
		return t.Key + ":" + t.Effect
	}
	return t.Key + "=" + t.Value + ":" + t.Effect
}

// tolerated says whether the chart's DaemonSet tolerates the taint unless it is
// told otherwise. A test holds it against the chart.
func (t taint) tolerated() bool {
	switch {
	case t.Effect == "PreferNoSchedule":
		return true
	case t.Key == "nvidia.com/gpu", t.Key == "stoker.dev/cold":
		return true
	case t.Key == "sku":
		return t.Value == "gpu" && t.Effect == "NoSchedule"
	}
	// What Kubernetes lets every DaemonSet's pods tolerate.
	switch strings.TrimPrefix(t.Key, "node.kubernetes.io/") {
	case "not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable":
		return true
	}
	return false
}

// agentPods is the command that shows whether a node has an agent.
func (n *Node) agentPods() string {
	return "kubectl get pods -A -o wide -l app.kubernetes.io/name=stoker --field-selector spec.nodeName=" + n.Name
}

// findAgent is what to check where an agent is missing.
func (n *Node) findAgent() string {
	var parts []string
	if n.Ready != "True" {
		parts = append(parts, "bring the node back first")
	}
	if n.labels[presentLabel] != "true" {
		parts = append(parts, fmt.Sprintf("give it the label %s=true, by which the chart's DaemonSet selects nodes unless its value nodeSelector says otherwise", presentLabel))
	}
	var bad []string
	for _, t := range n.taints {
		if !t.tolerated() {
			bad = append(bad, t.String())
		}
	}
	if len(bad) > 0 {
		parts = append(parts, "add to the chart's tolerations, which do not have it by default: "+strings.Join(bad, ", "))
	}
	if len(parts) == 0 {
		parts = append(parts, "see whether an agent's pod is there and what its log says")
	} else {
		parts = append(parts, "then see whether an agent's pod is there")
	}
	return strings.Join(parts, "; ")
}
