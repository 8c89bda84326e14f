//go:build cgo && linux

package gpu

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// hostPIDNamespace is the name of the first PID namespace of a Linux machine;
// its number is part of the kernel's interface (PID_NS_INIT_INO).
const hostPIDNamespace = "pid:[4026531836]"

// seesAllProcesses says whether this process is in the machine's own PID
// namespace. In another one, drivers that know of namespaces leave out the
// processes outside, and older ones tell the host's PIDs.
func seesAllProcesses() bool {
	name, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && name == hostPIDNamespace
}

// readUse fills in who may use a device and who does. It fails only with what
// concerns more than the question: what is not told is unknown.
func (b *nvmlBackend) readUse(d *Device, handle nvml.Device) error {
	if b.has("nvmlDeviceGetComputeMode") {
		mode, ret := handle.GetComputeMode()
		if err := grave(check("read the compute mode", ret)); err != nil {
			return err
		}
		if ret == nvml.SUCCESS {
			d.ComputeMode = computeMode(mode)
		}
	}
	return b.readProcesses(d, handle)
}

func computeMode(mode nvml.ComputeMode) ComputeMode {
	switch mode {
	case nvml.COMPUTEMODE_DEFAULT:
		return ComputeDefault
	case nvml.COMPUTEMODE_EXCLUSIVE_PROCESS:
		return ComputeExclusive
	case nvml.COMPUTEMODE_EXCLUSIVE_THREAD:
		return ComputeExclusiveThread
	case nvml.COMPUTEMODE_PROHIBITED:
		return ComputeProhibited
	}
	return "" // one that this package does not know
}

// readProcesses lists the processes with a compute context.
func (b *nvmlBackend) readProcesses(d *Device, handle nvml.Device) error {
	const doing = "list processes"
	if !b.hasVersion("nvmlDeviceGetComputeRunningProcesses") {
		d.ProcessesReason = fmt.Errorf("%s: %w", doing, ErrUnsupported).Error()
		return nil
	}
	found, ret := handle.GetComputeRunningProcesses()
	if err := check(doing, ret); err != nil {
		d.ProcessesReason = err.Error()
		return grave(err)
	}
	d.Processes = make([]Process, 0, len(found))
	for _, p := range found {
		one := process(p)
		one.MPS = b.allProcesses && isMPSServer(p.Pid)
		d.Processes = append(d.Processes, one)
	}
	if b.hasVersion("nvmlDeviceGetMPSComputeRunningProcesses") {
		clients, ret := handle.GetMPSComputeRunningProcesses()
		if err := grave(check("list MPS processes", ret)); err != nil {
			return err
		}
		for _, p := range clients { // none after a failure
			client := process(p)
			client.MPS = true
			// Drivers differ in whether the first list has them as well. PID
			// 0 stands for any process that is hidden from here.
			same := func(other Process) bool { return other.PID == client.PID && client.PID != 0 }
			if i := slices.IndexFunc(d.Processes, same); i >= 0 {
				d.Processes[i] = client
			} else {
				d.Processes = append(d.Processes, client)
			}
		}
	}
	slices.SortStableFunc(d.Processes, func(a, b Process) int { return cmp.Compare(a.PID, b.PID) })
	d.MPS = slices.ContainsFunc(d.Processes, func(p Process) bool { return p.MPS })
	if !b.allProcesses {
		d.ProcessesPartial = true
		d.ProcessesReason = "Stoker runs in a PID namespace of its own: the driver may hide processes outside of it, or tell the host's PIDs"
	}
	return nil
}

func process(p nvml.ProcessInfo) Process {
	if p.UsedGpuMemory == math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
		return Process{PID: p.Pid}
	}
	return Process{PID: p.Pid, UsedBytes: p.UsedGpuMemory, UsedKnown: true}
}

// isMPSServer reads the name of a process of this machine. The kernel cuts
// names after 15 characters.
func isMPSServer(pid uint32) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "nvidia-cuda-mps"
}

// readHealth reads memory errors and what the driver asks for; it fails as
// readUse does. NVML tells them of whole GPUs only.
func (b *nvmlBackend) readHealth(d *Device, handle nvml.Device) error {
	var ecc ECC
	if b.has("nvmlDeviceGetTotalEccErrors") {
		n, ret := handle.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
		if err := grave(check("read memory errors", ret)); err != nil {
			return err
		}
		if ret == nvml.SUCCESS {
			ecc.UncorrectedErrors, ecc.UncorrectedKnown = n, true
		}
	}
	if b.has("nvmlDeviceGetRemappedRows") {
		_, _, pending, failed, ret := handle.GetRemappedRows()
		if err := grave(check("read remapped rows", ret)); err != nil {
			return err
		}
		if ret == nvml.SUCCESS {
			ecc.RepairPending, ecc.RepairFailed, ecc.RepairKnown = pending, failed, true
		}
	}
	// GPUs before Ampere retire pages instead of remapping rows.
	if !ecc.RepairKnown && b.has("nvmlDeviceGetRetiredPagesPendingStatus") {
		pending, ret := handle.GetRetiredPagesPendingStatus()
		if err := grave(check("read retired pages", ret)); err != nil {
			return err
		}
		if ret == nvml.SUCCESS {
			ecc.RepairPending, ecc.RepairKnown = pending == nvml.FEATURE_ENABLED, true
		}
	}
	if ecc.UncorrectedKnown || ecc.RepairKnown {
		d.ECC = &ecc
	}
	if err := b.readFabric(d, handle); err != nil {
		return err
	}
	return b.readRecovery(d, handle)
}

// readFabric asks the first version of the call, which every driver has that has
// one (since R535): later ones add only health bits.
func (b *nvmlBackend) readFabric(d *Device, handle nvml.Device) error {
	if !b.has("nvmlDeviceGetGpuFabricInfo") {
		return nil
	}
	info, ret := handle.GetGpuFabricInfo()
	if ret == nvml.SUCCESS {
		d.Fabric = fabric(info)
	}
	return grave(check("read the state of the NVLink fabric", ret))
}

func fabric(info nvml.GpuFabricInfo) Fabric {
	switch info.State {
	case nvml.GPU_FABRIC_STATE_NOT_STARTED:
		return FabricNotStarted
	case nvml.GPU_FABRIC_STATE_IN_PROGRESS:
		return FabricInProgress
	case nvml.GPU_FABRIC_STATE_COMPLETED:
		// The status counts in this state only (nvml.h).
		if nvml.Return(info.Status) != nvml.SUCCESS {
			return FabricFailed
		}
		return FabricCompleted
	}
	return "" // there is none, or in a state that this package does not know
}

func (b *nvmlBackend) readRecovery(d *Device, handle nvml.Device) error {
	if !b.has("nvmlDeviceGetFieldValues") {
		return nil
	}
	fields := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	ret := handle.GetFieldValues(fields)
	if ret == nvml.SUCCESS {
		ret = nvml.Return(fields[0].NvmlReturn)
	}
	if ret == nvml.SUCCESS && nvml.ValueType(fields[0].ValueType) == nvml.VALUE_TYPE_UNSIGNED_INT {
		d.Recovery = recovery(binary.NativeEndian.Uint32(fields[0].Value[:]))
	}
	return grave(check("read the recovery action", ret))
}

func recovery(action uint32) Recovery {
	switch nvml.DeviceGpuRecoveryAction(action) {
	case nvml.GPU_RECOVERY_ACTION_NONE:
		return RecoveryNone
	case nvml.GPU_RECOVERY_ACTION_GPU_RESET:
		return RecoveryReset
	case nvml.GPU_RECOVERY_ACTION_NODE_REBOOT, nvml.GPU_RECOVERY_ACTION_SYSTEM_REBOOT:
		return RecoveryReboot
	case nvml.GPU_RECOVERY_ACTION_DRAIN_P2P:
		return RecoveryDrainPeers
	case nvml.GPU_RECOVERY_ACTION_DRAIN_AND_RESET:
		return RecoveryDrainAndReset
	case nvml.GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN:
		return RecoveryIMEX
	case nvml.GPU_RECOVERY_ACTION_BUS_RESET:
		return RecoveryBusReset
	}
	return Recovery(fmt.Sprintf("action-%d", action))
}

// hasVersion is has for a function of which libraries have different versions,
// the newest of which the binding takes.
func (b *nvmlBackend) hasVersion(symbol string) bool {
	return b.has(symbol) || b.has(symbol+"_v2") || b.has(symbol+"_v3")
}

// grave returns err if it says something about the library or the whole device,
// and nil if it is only the answer to one question.
func grave(err error) error {
	if errors.Is(err, errStale) || errors.Is(err, ErrVersionMismatch) || errors.Is(err, ErrLost) {
		return err
	}
	return nil
}
