// Package gpu reads which GPUs a machine has and how much of their memory is
// free: from NVIDIA's management library (NVML) where there is a driver, or
// from the tables of a simulated board where there is none.
//
// It only reads. It knows no models and no cluster: what a model needs is told
// by gpu/sizing, which GPU is allocated to which pod is told by the agent. Free
// memory is not capacity: a GPU that was just given to a pod still looks free
// while its process starts.
//
// # Errors
//
// Every error of this package wraps at most one of the sentinels
// [ErrNoDriver], [ErrVersionMismatch], [ErrNoPermission], [ErrLost],
// [ErrUnsupported], [ErrUnknown] and [ErrTimeout], or [os.ErrClosed] after [Reader.Close].
// A device that cannot be read while others can is no error of
// [Reader.Devices]: it is listed with its [State] and the reason. What one GPU
// or driver does not tell of a device that answers is unknown, and its field
// says how that looks.
//
// # The binary
//
// NVML is opened at run time (dlopen), never linked: the same binary starts on
// a machine without a driver and says so with ErrNoDriver. This needs cgo,
// glibc and lazy binding; a binary linked with "-z now", or started with
// LD_BIND_NOW=1, dies before main with an undefined symbol. Built without cgo,
// or for another system than Linux, the package has the simulated boards only.
package gpu
