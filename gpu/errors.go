package gpu

import "errors"

// What can keep GPUs from being read. They are told apart because each one asks
// for something else: a driver, a restart, a right, a reset, patience.
var (
	// ErrNoDriver: there is nothing to read. The library is not installed or
	// not mounted into this container, the kernel module is not loaded, the
	// binary was built without cgo, or the reader was opened with "none".
	// A later call looks again.
	ErrNoDriver = errors.New("no NVIDIA driver")

	// ErrVersionMismatch: the library and the loaded kernel module are of
	// different versions, as after an upgrade of the driver. A later call
	// tries again and recovers once the module was reloaded. Where this
	// process had already loaded the old library, only another process loads
	// the new one, as with OpenInChild: glibc never unloads what the
	// executable itself has bound to. Where a container runtime has mounted
	// the old library into this container, only a new container has the new one.
	ErrVersionMismatch = errors.New("NVIDIA library and kernel module differ in version")

	// ErrNoPermission: the driver is there, but this process may not ask it.
	ErrNoPermission = errors.New("no permission to read the GPU")

	// ErrLost: a GPU does not answer (it has fallen off the bus), or must be
	// reset before it can be used again.
	ErrLost = errors.New("GPU is lost")

	// ErrUnsupported: this GPU or this driver does not have what was asked
	// for. It is a property, not a failure: asking again changes nothing.
	ErrUnsupported = errors.New("not supported by this GPU or driver")

	// ErrUnknown: NVML's "Unknown Error". Where the GPUs could be read before,
	// this container has lost their device files, as after systemctl
	// daemon-reload on the node (github.com/NVIDIA/nvidia-docker/issues/1730).
	// A child of this process has lost them as well: only a new container has
	// them again.
	ErrUnknown = errors.New("unknown error of the NVIDIA driver")

	// ErrTimeout: a call into the driver has not returned in time. In this
	// process it cannot be interrupted; until it returns, further calls answer
	// at once with ErrTimeout. With OpenInChild it is killed.
	ErrTimeout = errors.New("NVIDIA driver does not answer")
)
