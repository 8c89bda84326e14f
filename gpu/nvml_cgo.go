//go:build cgo && linux

package gpu

import (
	"context"
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// nvmlBackend reads the devices of this machine through NVML.
type nvmlBackend struct {
	api nvml.Interface
	// allProcesses: the processes that the driver lists are all there are, and
	// their PIDs are those of this process's namespace.
	allProcesses bool
	// root is where the machine's /proc and /sys are; "/" but in tests.
	root string
}

func newNVML() backend {
	return &nvmlBackend{api: nvml.New(), allProcesses: seesAllProcesses(), root: "/"}
}

// newNVMLInChild leaves the reading to another process.
func newNVMLInChild(command Command) backend { return &childBackend{command: command} }

// open loads the library, if that has not happened, and initializes it.
func (b *nvmlBackend) open() error {
	return explainUnknown(check("initialize NVML", b.api.Init()))
}

func (b *nvmlBackend) close() error {
	err := check("shut NVML down", b.api.Shutdown())
	if errors.Is(err, errStale) {
		return nil // the driver has shut it down already
	}
	return err
}

// devices fails as a whole only for what concerns the library; a GPU that does
// not answer is listed as that.
func (b *nvmlBackend) devices(context.Context) ([]Device, error) {
	count, ret := b.api.DeviceGetCount()
	if err := check("count GPUs", ret); err != nil {
		return nil, explainUnknown(err)
	}
	var list []Device
	unknown := 0
	for i := range count {
		handle, ret := b.api.DeviceGetHandleByIndex(i)
		err := check(fmt.Sprintf("open GPU %d", i), ret)
		if errors.Is(err, errStale) || errors.Is(err, ErrVersionMismatch) {
			return nil, err
		}
		if errors.Is(err, ErrUnknown) {
			if unknown++; unknown == count {
				return nil, explainUnknown(err)
			}
		}
		if err != nil {
			list = append(list, broken(Device{Index: i}, err))
			continue
		}
		found, err := b.readGPU(i, handle)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

// readGPU reads one GPU and its MIG devices. An error means that the library
// must be initialized again.
func (b *nvmlBackend) readGPU(index int, handle nvml.Device) ([]Device, error) {
	d := Device{Index: index}
	if major, minor, ret := handle.GetCudaComputeCapability(); ret == nvml.SUCCESS {
		d.ComputeCapability = fmt.Sprintf("%d.%d", major, minor)
	}
	d, err := b.readDevice(d, handle)
	if err != nil {
		return nil, err
	}
	if d, err = b.complete(d, handle, b.readHealth); err != nil {
		return nil, err
	}
	if !b.inMIGMode(handle) {
		d, err = b.complete(d, handle, b.readUse)
		return []Device{d}, err
	}
	if d.State == StateOK || d.State == StateNoPermission {
		// The memory of a GPU in MIG mode may be kept from us; its parts tell.
		d.State, d.Reason = StatePartitioned, "in MIG mode; its MIG devices take the work"
	}
	d.ProcessesReason = "in MIG mode; its MIG devices have the processes"
	list := []Device{d}
	slots, ret := handle.GetMaxMigDeviceCount()
	if err := check(fmt.Sprintf("count MIG devices of GPU %d", index), ret); err != nil {
		slots, list[0].Reason = 0, err.Error()
	}
	for slot := range slots {
		part, ret := handle.GetMigDeviceHandleByIndex(slot)
		err := check(fmt.Sprintf("open MIG device %d.%d", index, slot), ret)
		if errors.Is(err, errNotFound) {
			continue // an empty slot
		}
		m := Device{
			Index: index, Name: d.Name + " MIG", ComputeCapability: d.ComputeCapability,
			MIG: &MIG{ParentUUID: d.UUID, Index: slot},
		}
		if err == nil {
			if m, err = b.readDevice(m, part); err != nil {
				return nil, err
			}
			m.ECC, m.Recovery = d.ECC, d.Recovery
			if m, err = b.complete(m, part, b.readUse); err != nil {
				return nil, err
			}
		} else {
			m = broken(m, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// readDevice fills in what every device has. What cannot be read becomes the
// device's state; an error means that the library must be initialized again.
func (b *nvmlBackend) readDevice(d Device, handle nvml.Device) (Device, error) {
	name, ret := handle.GetName()
	if ret == nvml.SUCCESS {
		d.Name = name
	}
	uuid, ret := handle.GetUUID()
	err := check(fmt.Sprintf("read the UUID of GPU %d", d.Index), ret)
	if err == nil {
		d.UUID = uuid
		d.State = StateOK
		err = b.readMemory(&d, handle)
		d.UsableBytes = usableBytes(d)
	}
	switch {
	case errors.Is(err, errStale), errors.Is(err, ErrVersionMismatch):
		return Device{}, err
	case err != nil:
		return broken(d, err), nil
	}
	return d, nil
}

// complete lets read add to a device that answers. What it says of the device
// becomes its state; an error means that the library must be initialized again.
func (b *nvmlBackend) complete(d Device, handle nvml.Device, read func(*Device, nvml.Device) error) (Device, error) {
	if d.State != StateOK {
		return d, nil
	}
	switch err := read(&d, handle); {
	case errors.Is(err, errStale), errors.Is(err, ErrVersionMismatch):
		return Device{}, err
	case err != nil:
		return broken(d, fmt.Errorf("GPU %d: %w", d.Index, err)), nil
	}
	d.Conditions = d.conditions()
	return d, nil
}

// inMIGMode is false for GPUs and drivers that know no MIG.
func (b *nvmlBackend) inMIGMode(handle nvml.Device) bool {
	if !b.has("nvmlDeviceGetMigMode") || !b.has("nvmlDeviceGetMaxMigDeviceCount") || !b.has("nvmlDeviceGetMigDeviceHandleByIndex") {
		return false
	}
	mode, _, ret := handle.GetMigMode()
	return ret == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE
}

// has says whether the library has a function. It must be asked before calling
// what older drivers lack: functions are bound lazily, and calling a missing one
// ends the process.
func (b *nvmlBackend) has(symbol string) bool {
	return b.api.Extensions().LookupSymbol(symbol) == nil
}

// broken is d, of which only the names are still believed, with the state and
// reason that follow from err.
func broken(d Device, err error) Device {
	d = Device{Index: d.Index, UUID: d.UUID, Name: d.Name, ComputeCapability: d.ComputeCapability, MIG: d.MIG, State: StateUnknown}
	switch {
	case errors.Is(err, errReset):
		d.State = StateResetRequired
	case errors.Is(err, ErrLost):
		d.State = StateLost
	case errors.Is(err, ErrNoPermission):
		d.State = StateNoPermission
	}
	d.Reason = err.Error()
	return d
}

var (
	// errReset is the kind of ErrLost that a reset of the GPU mends.
	errReset = fmt.Errorf("it must be reset before use: %w", ErrLost)
	// errNotFound is an empty MIG slot.
	errNotFound = errors.New("not found")
)

// explainUnknown says what to do about an unknown error of the whole driver.
func explainUnknown(err error) error {
	if !errors.Is(err, ErrUnknown) {
		return err
	}
	return fmt.Errorf("%w; where the GPUs could be read before, this container has lost them, as after systemctl daemon-reload on the node: restart the pod", err)
}

// check turns what NVML returned into an error, nil for SUCCESS. It is the one
// place that does: nvml.Return implements error, and error(nvml.SUCCESS) is not
// nil.
func check(doing string, ret nvml.Return) error {
	var kind error
	switch ret {
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return fmt.Errorf("%s: libnvidia-ml.so.1 is not installed or not visible here: %w", doing, ErrNoDriver)
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return fmt.Errorf("%s: the kernel module is not loaded: %w", doing, ErrNoDriver)
	case nvml.ERROR_UNINITIALIZED:
		kind = errStale
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		kind = ErrVersionMismatch
	case nvml.ERROR_NO_PERMISSION:
		kind = ErrNoPermission
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_GPU_NOT_FOUND:
		kind = ErrLost
	case nvml.ERROR_RESET_REQUIRED:
		kind = errReset
	case nvml.ERROR_TIMEOUT:
		kind = ErrTimeout
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_ARGUMENT_VERSION_MISMATCH, nvml.ERROR_DEPRECATED:
		kind = ErrUnsupported
	case nvml.ERROR_NOT_FOUND:
		kind = errNotFound
	case nvml.ERROR_UNKNOWN:
		kind = ErrUnknown
	default:
		// Not %w: the library is asked for the text of a Return each time.
		return fmt.Errorf("%s: %s (NVML error %d)", doing, ret.Error(), uint32(ret))
	}
	return fmt.Errorf("%s: %w (NVML error %d)", doing, kind, uint32(ret))
}
