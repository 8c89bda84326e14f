package sweep

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/agent"
)

// node is what is kept of a Node.
type node struct {
	Name string
	UID  types.UID
	// Version is the resource version that the other fields are of.
	Version string
	// Labels and Annotations are the keys that agents write, sorted.
	Labels, Annotations []string
	// Release is that of the agent which wrote the annotation, as NAMESPACE/NAME; empty:
	// it does not say, as those of older agents.
	Release string
	// Wrote is when an agent last changed the Node, by the API server's clock;
	// zero if nothing of its writes is left.
	Wrote time.Time
}

// says reports whether the Node still says something of an agent's.
func (n node) says() bool { return len(n.Labels)+len(n.Annotations) > 0 }

// keys is everything that a removal takes away, as people read it.
func (n node) keys() []string { return slices.Concat(n.Labels, n.Annotations) }

func nodeOf(m *metav1.PartialObjectMetadata) node {
	n := node{Name: m.Name, UID: m.UID, Version: m.ResourceVersion}
	for _, key := range slices.Sorted(maps.Keys(m.Labels)) {
		if agent.IsAgentLabel(key) {
			n.Labels = append(n.Labels, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Annotations)) {
		if agent.IsAgentAnnotation(key) {
			n.Annotations = append(n.Annotations, key)
		}
	}
	n.Release = releaseIn(m.Annotations[agent.StatusAnnotation])
	for _, entry := range m.ManagedFields {
		if entry.Manager == agent.FieldManager && entry.Time != nil && entry.Time.After(n.Wrote) {
			n.Wrote = entry.Time.Time
		}
	}
	return n
}

// removal is the merge patch that takes the node's keys away and can do nothing
// else. The UID keeps it from another Node of the same name. With pinned, the
// API server refuses it as a conflict if the Node has changed since.
func (n node) removal(pinned bool) ([]byte, error) {
	nulls := func(keys []string) map[string]any {
		out := map[string]any{}
		for _, key := range keys {
			out[key] = nil
		}
		return out
	}
	meta := map[string]any{"uid": n.UID}
	if pinned {
		meta["resourceVersion"] = n.Version
	}
	if len(n.Labels) > 0 {
		meta["labels"] = nulls(n.Labels)
	}
	if len(n.Annotations) > 0 {
		meta["annotations"] = nulls(n.Annotations)
	}
	return json.Marshal(map[string]any{"metadata": meta})
}

// releaseIn is the release that an agent's annotation names; empty where it names
// none, or cannot be read.
func releaseIn(status string) string {
	var s ofRelease
	if json.Unmarshal([]byte(status), &s) != nil {
		return ""
	}
	return s.Release
}

// ofRelease is what is read of an agent's annotation.
type ofRelease struct {
	Release string `json:"release"`
}

// statusOf is an annotation in which releaseIn finds the release.
func statusOf(release string) string {
	text, err := json.Marshal(ofRelease{release})
	if err != nil {
		return "" // a string always can be written
	}
	return string(text)
}
