package fleet

import (
	"encoding/json"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
)

// labelOwners are the field managers of each label, as far as the API server
// has kept track of them.
func labelOwners(fields []metav1.ManagedFieldsEntry) map[string][]string {
	out := map[string][]string{}
	for _, entry := range fields {
		if entry.FieldsV1 == nil || entry.Subresource != "" {
			continue
		}
		var owned struct {
			Metadata struct {
				Labels map[string]json.RawMessage `json:"f:labels"`
			} `json:"f:metadata"`
		}
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &owned) != nil {
			continue // it decides nothing
		}
		for field := range owned.Metadata.Labels {
			if key, ok := strings.CutPrefix(field, "f:"); ok {
				out[key] = append(out[key], entry.Manager)
			}
		}
	}
	return out
}

// setBy says by whom a label was set if that was not the agent; empty where
// nobody knows.
func (n *Node) setBy(key string) string {
	owners := n.owners[key]
	if len(owners) == 0 || slices.Contains(owners, agent.FieldManager) {
		return ""
	}
	slices.Sort(owners)
	return " (set by " + strings.Join(slices.Compact(owners), " and ") + ")"
}
