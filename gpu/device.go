package gpu

// State says whether a device can be used and its memory be believed.
type State string

// The states of a device. Only a device that is StateOK can take work; memory
// numbers of the others are zero unless stated otherwise.
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

	TotalBytes uint64 `json:"totalBytes"`
	FreeBytes  uint64 `json:"freeBytes"`
	// UsedBytes is what processes and contexts hold. Where ReservedBytes is
	// not known, it contains what the driver reserves as well.
	UsedBytes uint64 `json:"usedBytes"`
	// ReservedBytes is what driver and firmware keep for themselves; 0 where
	// the driver does not tell it.
	ReservedBytes uint64 `json:"reservedBytes,omitempty"`

	State State `json:"state"`
	// Reason says why State is not StateOK, in words for people.
	Reason string `json:"reason,omitempty"`

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
