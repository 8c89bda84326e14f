package main

import "syscall"

// tied makes a child that ends with the demo, however that ends, and that a
// Ctrl-C on the terminal does not reach: the demo stops it in order.
func tied() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
