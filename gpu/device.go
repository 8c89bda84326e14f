package gpu

// State says whether a device can be used and its memory be believed.
type State string

// The states of a device. Only a device that is StateOK can take work, and not
// even each of those (see [Device.Usable]); memory numbers of the others are
// zero unless stated otherwise.
const (
	// StateOK: the device answers and its memory is known.
	StateOK State = "ok"
	// StateLost: the device has fallen off the bus.
	StateLost State = "lost"
	// StateResetRequired: the device answers, but must be reset before use.
	StateResetRequired State = "reset-required"
	// StateNoPermission: the device is there, and this process may not read it.
	StateNoPermission State = "no-permission"
	// StatePartitioned: the GPU is in MIG mode. Nothing runs on the GPU itself;
	// its MIG devices follow it in the list. Its own memory is given where the
	// driver tells it.
	StatePartitioned State = "partitioned"
	// StateUnknown: the memory could not be read for another reason.
	StateUnknown State = "unknown"
)

// Device is one GPU, or one MIG device of a GPU, as it was at the time of the
// call. Sizes are in bytes. UsedBytes + FreeBytes + ReservedBytes = TotalBytes.
type Device struct {
	// Index is NVML's number of the GPU, from 0; a MIG device has that of its
	// GPU. Indexes may change over a reboot, UUIDs do not.
	Index int `json:"index"`
	// UUID is "GPU-..." or "MIG-..."; empty if it could not be read.
	UUID string `json:"uuid"`
	// Name is the product name, such as "NVIDIA H200".
	Name string `json:"name"`
	// ComputeCapability is "MAJOR.MINOR", such as "9.0"; empty if unknown.
	ComputeCapability string `json:"computeCapability,omitempty"`

	// TotalBytes is the memory as NVML and nvidia-smi report it.
	TotalBytes uint64 `json:"totalBytes"`
	// UsableBytes is the memory as CUDA reports it, of which vLLM takes its
	// share: the total less what the driver reserves. Where the driver does not
	// report that, it is known for common GPUs (see docs/gpus.md), and of others
	// it is the total, which is too much by 0.5 to 3 percent. That NVML's
	// reserve is the whole difference follows from public logs; it was not
	// checked on hardware.
	UsableBytes uint64 `json:"usableBytes"`
	FreeBytes   uint64 `json:"freeBytes"`
	// UsedBytes is what processes and contexts hold. Where ReservedBytes is
	// not known, it contains what the driver reserves as well.
	UsedBytes uint64 `json:"usedBytes"`
	// ReservedBytes is what driver and firmware keep for themselves; 0 where
	// the driver does not tell it.
	ReservedBytes uint64 `json:"reservedBytes,omitempty"`

	// UnifiedMemory: the GPU shares the machine's memory, as GB10 and Jetson do.
	// TotalBytes is that memory then, FreeBytes what of it is available to new
	// processes (page cache given back), and UsedBytes what all processes and
	// the kernel hold, with the GPU or without. Not checked on hardware.
	UnifiedMemory bool `json:"unifiedMemory,omitempty"`
	// PageCacheBytes is what of UsedBytes the kernel holds as page cache and
	// gives back when it is needed, where the GPU's memory is a NUMA node of the
	// machine's, as GH200's and GB200's may be. vLLM counts it as used. Not
	// checked on hardware.
	PageCacheBytes uint64 `json:"pageCacheBytes,omitempty"`

	State State `json:"state"`
	// Reason says why State is not StateOK, in words for people.
	Reason string `json:"reason,omitempty"`

	// ComputeMode says who may use the device; empty if unknown. A GPU in MIG
	// mode has none, its MIG devices do.
	ComputeMode ComputeMode `json:"computeMode,omitempty"`
	// MPS: a process that uses the Multi-Process Service, or its server, was
	// seen here. That none was seen says nothing.
	MPS bool `json:"mps,omitempty"`
	// ECC is what is known of memory errors; nil if nothing is, as for a GPU
	// without ECC. A MIG device shares the memory chips, so it has its GPU's.
	ECC *ECC `json:"ecc,omitempty"`
	// Recovery is what the driver says that the GPU needs; empty if it does
	// not say, as older ones.
	Recovery Recovery `json:"recovery,omitempty"`
	// Fabric is how far the GPU has come in joining its machine's NVLink fabric;
	// empty where there is none, or where the driver does not report it.
	Fabric Fabric `json:"fabric,omitempty"`
	// Conditions are what is the matter with a device that answers.
	Conditions []Condition `json:"conditions,omitempty"`

	// Processes are those with a compute context on the device, in the order
	// of their PID. Nil (and left out of the JSON) means unknown, empty means
	// none; see ProcessesPartial.
	Processes []Process `json:"processes,omitzero"`
	// ProcessesPartial: there may be more processes than these, and their PIDs
	// may not be those of this process's namespace.
	ProcessesPartial bool `json:"processesPartial,omitempty"`
	// ProcessesReason says why Processes is nil or partial.
	ProcessesReason string `json:"processesReason,omitempty"`

	// MIG is set on MIG devices only.
	MIG *MIG `json:"mig,omitempty"`
}

// MIG is what a MIG device has beyond a GPU.
type MIG struct {
	// ParentUUID is the UUID of the GPU that it is a part of.
	ParentUUID string `json:"parentUuid"`
	// Index is its slot on the GPU, from 0. Slots may have gaps.
	Index int `json:"index"`
}
