package agent

import "strings"

// What a node says, and what pods say to it: keys of labels and annotations.
const (
	// Domain ends every key that Stoker writes.
	Domain = "stoker.dev"
	// WarmPrefix plus a model's name is the label that says the model is warm;
	// its value is the tier.
	WarmPrefix = "warm." + Domain + "/"
	// RevPrefix plus a model's name: the first 12 characters of the published
	// revision.
	RevPrefix = "rev." + Domain + "/"
	// FitsPrefix plus a model's name: how many replicas could start now.
	FitsPrefix = "fits." + Domain + "/"
	// GPUPrefix begins the labels about the node's GPUs.
	GPUPrefix = "gpu." + Domain + "/"
	// FreeGiBLabel is the largest free memory on one GPU in GiB, rounded down
	// to a multiple of 4.
	FreeGiBLabel = GPUPrefix + "free-gib"
	// IdleLabel is the number of GPUs with at least 0.92 of their memory free.
	IdleLabel = GPUPrefix + "idle"
	// StatusAnnotation holds a [NodeStatus] as compact JSON.
	StatusAnnotation = Domain + "/status"
	// ReleaseAnnotation of the chart's DaemonSet, and of its policy about Nodes, names its
	// Helm release, NAMESPACE/NAME.
	ReleaseAnnotation = Domain + "/release"
	// NamespacesAnnotation of that policy has the namespaces whose pods may mount the
	// store, by commas.
	NamespacesAnnotation = Domain + "/namespaces"
	// ModelLabel is the label by which a pod names the model it serves.
	ModelLabel = Domain + "/model"
	// AdaptersAnnotation names further entries of the list that a pod with that
	// label reads, such as LoRA adapters, separated by commas: [Adapters]. There are [MaxAdapters] at most.
	AdaptersAnnotation = Domain + "/adapters"

	// ColdTaint is the startup taint that the agent lifts when its Node is warm.
	ColdTaint = Domain + "/cold"

	// TierDisk is the value of the warm label of a model on the volume.
	TierDisk = "disk"
	// TierShared is its value where the volume is one that nodes share.
	TierShared = "shared"
	// TierRAM is its value where the model's pages are in memory as well.
	TierRAM = "ram"

	// FieldManager owns everything that the agent applies to its Node.
	FieldManager = "stoker-agent"
)

// MaxAdapters is how many adapters a pod may name. Agents pull and keep no further ones, and `stoker wait` refuses them: what
// a pod names that is in no list stands in the Node's annotation, which has an end.
const MaxAdapters = 64

// Adapters returns the names in the value of [AdaptersAnnotation], as they stand
// there, without the space around them and without empty ones.
func Adapters(annotation string) []string {
	var names []string
	for name := range strings.SplitSeq(annotation, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// IsAgentLabel says whether agents write labels with this key. Other keys of
// the domain may be people's.
func IsAgentLabel(key string) bool {
	for _, prefix := range []string{WarmPrefix, RevPrefix, FitsPrefix, GPUPrefix} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// IsAgentAnnotation says whether agents write annotations with this key.
func IsAgentAnnotation(key string) bool { return key == StatusAnnotation }
