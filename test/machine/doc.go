// Package machine boots real Linux kernels for tests: user-mode Linux, which runs as an ordinary process and needs
// neither KVM nor an image. So a test can have an NFS server and clients of it, cut their power and their network, stop
// them for a while, and run commands in them.
//
// A test program enters a sandbox first (package sandbox). In there, NewNetwork makes a network and Network.Boot
// boots machines on it. Nothing outlives the sandbox. Machines share one root directory, which they never write to:
// every change stays in their memory and is lost when they end. Their disks are files of the test.
//
// It needs Linux on x86-64 and root. It is not for isolation: a machine can read every file that the test can.
package machine
