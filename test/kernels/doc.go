// Package kernels runs on a kernel of its own what depends on the kernel: the tests of other packages that need a memory
// cgroup, on cgroup v2, and the program on a file system with a project quota. Each machine is one of package machine.
//
// The tests have the build tag e2e and are what `make e2e-machine` runs beside those of package machine. They need Linux
// on x86-64 and root.
package kernels
