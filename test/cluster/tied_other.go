//go:build !linux

package cluster

import "syscall"

// tied makes a child in a process group of its own. There is no parent-death signal here: components end with their
// standard input instead, and a build ends by itself.
func tied(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
