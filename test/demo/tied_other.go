//go:build !linux

package main

import "syscall"

// tied makes a child that a Ctrl-C on the terminal does not reach.
func tied() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
