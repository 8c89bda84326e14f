// Package sandbox runs a test program in namespaces of its own (processes, mounts, network, IPC, host name) and in a
// cgroup of its own, so that a kubelet and its containers can be started on any machine as root and leave nothing: when
// the program ends, however it ends, the kernel ends every process in there and takes its mounts, bridges and packet
// filter rules away. What the kernel does not take, the directory and the cgroups, goes with the program that waits
// outside, or, if that was killed too, with the next one that starts.
//
// It is for tests on Linux as root. It confines nothing that wants to get out.
package sandbox
