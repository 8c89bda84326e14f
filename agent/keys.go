package agent

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
	// FreeGiBLabel is the largest free memory on one GPU in GiB, rounded down
	// to a multiple of 4.
	FreeGiBLabel = "gpu." + Domain + "/free-gib"
	// IdleLabel is the number of GPUs with at least 0.92 of their memory free.
	IdleLabel = "gpu." + Domain + "/idle"
	// StatusAnnotation holds a [NodeStatus] as compact JSON.
	StatusAnnotation = Domain + "/status"
	// ModelLabel is the label by which a pod names the model it serves.
	ModelLabel = Domain + "/model"

	// ColdTaint is the startup taint that the agent lifts when its Node is warm.
	ColdTaint = Domain + "/cold"

	// TierDisk is the value of the warm label of a model on the volume.
	TierDisk = "disk"

	// FieldManager owns everything that the agent applies to its Node.
	FieldManager = "stoker-agent"
)
