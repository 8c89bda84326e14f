package gpu

import (
	"fmt"
	"strings"
)

// ComputeMode says how many processes may use a device at once.
type ComputeMode string

// The compute modes.
const (
	// ComputeDefault: any number of processes.
	ComputeDefault ComputeMode = "default"
	// ComputeExclusive: one process; with the Multi-Process Service that one
	// is its server, and others go through it.
	ComputeExclusive ComputeMode = "exclusive-process"
	// ComputeExclusiveThread: one thread; only old drivers have it.
	ComputeExclusiveThread ComputeMode = "exclusive-thread"
	// ComputeProhibited: none.
	ComputeProhibited ComputeMode = "prohibited"
)

// Process is one process with a compute context on a device.
type Process struct {
	// PID is what the driver calls the process. In a PID namespace of one's
	// own it may be a number of the host's, or 0; see Device.ProcessesPartial.
	PID uint32 `json:"pid"`
	// UsedBytes is what the process holds of the device's memory, if UsedKnown.
	UsedBytes uint64 `json:"usedBytes"`
	// UsedKnown is false where the driver does not tell it.
	UsedKnown bool `json:"usedKnown"`
	// MPS: it is a client or the server of the Multi-Process Service.
	MPS bool `json:"mps,omitempty"`
}

// ECC is what is known of errors in a device's memory.
type ECC struct {
	// UncorrectedErrors is how many could not be corrected since the driver
	// was loaded or the GPU was reset, if UncorrectedKnown.
	UncorrectedErrors uint64 `json:"uncorrectedErrors"`
	UncorrectedKnown  bool   `json:"uncorrectedKnown"`
	// RepairPending: rows wait to be remapped, or pages to be retired, at the
	// next reset. RepairFailed: a row could not be remapped. Both only if
	// RepairKnown; the driver does not tell them of a GPU in MIG mode.
	RepairPending bool `json:"repairPending"`
	RepairFailed  bool `json:"repairFailed"`
	RepairKnown   bool `json:"repairKnown"`
}

// Recovery is what a driver says that a GPU needs before it works as it should.
type Recovery string

// What drivers ask for. Any other text is an action that this package does not
// know, in the driver's number.
const (
	RecoveryNone          Recovery = "none"
	RecoveryReset         Recovery = "reset"
	RecoveryReboot        Recovery = "reboot"
	RecoveryDrainPeers    Recovery = "drain-peers"
	RecoveryDrainAndReset Recovery = "drain-and-reset"
	RecoveryIMEX          Recovery = "recover-imex-domain"
	RecoveryBusReset      Recovery = "bus-reset"
)

// Fabric is the state of a GPU's registration with the NVLink fabric of its
// machine, which the fabric manager (a service of the node) makes.
type Fabric string

// The states. Before it is complete, NVML shows an idle GPU and CUDA fails to
// initialize (error 802). FabricFailed: it came to an end with an error. Drivers
// report it of Hopper and later only; an A100 with NVSwitch reports none.
const (
	FabricNotStarted Fabric = "not-started"
	FabricInProgress Fabric = "in-progress"
	FabricCompleted  Fabric = "completed"
	FabricFailed     Fabric = "failed"
)

// needsReset says whether no new work should start before the recovery.
func (r Recovery) needsReset() bool {
	switch r {
	case RecoveryReset, RecoveryReboot, RecoveryDrainAndReset, RecoveryBusReset:
		return true
	}
	return false
}

// Condition is something that is the matter with a device that answers.
type Condition struct {
	Type ConditionType `json:"type"`
	// Blocks: no new process can or should start on the device while this lasts.
	Blocks bool `json:"blocks"`
	// Reason is for people.
	Reason string `json:"reason"`
}

// ConditionType says what kind of thing it is.
type ConditionType string

// The conditions.
const (
	// ConditionProhibited: the compute mode lets nobody in. Blocks.
	ConditionProhibited ConditionType = "prohibited"
	// ConditionExclusive: the compute mode lets one process in. Blocks where
	// a process without MPS is known to be on the device.
	ConditionExclusive ConditionType = "exclusive"
	// ConditionRecovery: the driver asks for a reset or a reboot, which
	// blocks, or for another recovery.
	ConditionRecovery ConditionType = "recovery"
	// ConditionFabric: the NVLink fabric is not up. Blocks while the GPU is not
	// registered with it; one that failed to register is told, and not known to
	// be useless.
	ConditionFabric ConditionType = "fabric"
	// ConditionUncorrectedErrors: memory errors that could not be corrected.
	// Blocks while their repair waits for a reset, unless the driver says that
	// none is needed, as it does where the bad page was taken out of use.
	ConditionUncorrectedErrors ConditionType = "uncorrected-errors"
	// ConditionRepairPending: a reset would repair memory.
	ConditionRepairPending ConditionType = "repair-pending"
	// ConditionRepairFailed: memory could not be repaired; the GPU is due to
	// be replaced.
	ConditionRepairFailed ConditionType = "repair-failed"
)

// Usable says whether a new process can start on the device, as far as is
// known; whether its memory suffices is another question.
func (d Device) Usable() bool { return d.Obstacle() == "" }

// Obstacle says why the device is not usable, in words for people; empty if it
// is usable.
func (d Device) Obstacle() string {
	if d.State != StateOK {
		if d.Reason != "" {
			return d.Reason
		}
		return "its state is " + string(d.State)
	}
	var reasons []string
	for _, c := range d.Conditions {
		if c.Blocks {
			reasons = append(reasons, c.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// Taken says whether the only thing that keeps a new process off the device is
// one that is on it already, in an exclusive mode.
func (d Device) Taken() bool {
	taken := false
	for _, c := range d.Conditions {
		if c.Blocks && c.Type != ConditionExclusive {
			return false
		}
		taken = taken || c.Blocks
	}
	return d.State == StateOK && taken
}

// conditions is what follows from the rest of d.
func (d Device) conditions() []Condition {
	var list []Condition
	add := func(kind ConditionType, blocks bool, format string, args ...any) {
		list = append(list, Condition{Type: kind, Blocks: blocks, Reason: fmt.Sprintf(format, args...)})
	}
	switch d.ComputeMode {
	case ComputeProhibited:
		add(ConditionProhibited, true, "its compute mode is prohibited, so no process may use it")
	case ComputeExclusive, ComputeExclusiveThread:
		switch {
		case d.MPS:
			add(ConditionExclusive, false, "its compute mode is %s, and it is shared through MPS", d.ComputeMode)
		case d.Processes == nil || d.ProcessesPartial:
			add(ConditionExclusive, false, "its compute mode is %s, and whether a process holds it is not known", d.ComputeMode)
		case len(d.Processes) > 0:
			add(ConditionExclusive, true, "its compute mode is %s, and process %d is on it", d.ComputeMode, d.Processes[0].PID)
		default:
			add(ConditionExclusive, false, "its compute mode is %s, and no process is on it", d.ComputeMode)
		}
	}
	if d.Recovery != "" && d.Recovery != RecoveryNone {
		add(ConditionRecovery, d.Recovery.needsReset(), "the driver asks for this recovery: %s", d.Recovery)
	}
	switch d.Fabric {
	case FabricNotStarted, FabricInProgress:
		add(ConditionFabric, true, "its NVLink fabric is not up (%s), so CUDA cannot initialize (error 802); start nvidia-fabricmanager on the node, in the driver's version", d.Fabric)
	case FabricFailed:
		add(ConditionFabric, false, "it failed to join its NVLink fabric; look at nvidia-fabricmanager on the node")
	}
	if d.ECC == nil {
		return list
	}
	e := *d.ECC
	switch {
	case e.UncorrectedErrors > 0 && e.RepairPending:
		add(ConditionUncorrectedErrors, d.Recovery == "", "%d memory errors could not be corrected, and their repair waits for a reset", e.UncorrectedErrors)
	case e.UncorrectedErrors > 0:
		add(ConditionUncorrectedErrors, false, "%d memory errors could not be corrected since the driver was loaded", e.UncorrectedErrors)
	case e.RepairPending:
		add(ConditionRepairPending, false, "memory waits for a reset to be repaired")
	}
	if e.RepairFailed {
		add(ConditionRepairFailed, false, "memory could not be repaired; have the GPU checked for replacement")
	}
	return list
}
