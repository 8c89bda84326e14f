//go:build linux

// The program guest is the first process of a machine of package machine. From the kernel's initial file system it mounts the root
// directory below a layer in memory, brings the network up, and then serves commands in the protocol of package wire.
// The kernel's command line has its parameters: stoker.name, the
// host name; stoker.root, the root directory's path on the host; stoker.address, on the network of the machines; and
// stoker.control, on the link that carries commands.
package main

import (
	"fmt"
	"os"
	"syscall"
)

// serveArg makes the program serve commands; without it, it is the first process.
const serveArg = "serve"

func main() {
	run := runInit
	if len(os.Args) > 1 && os.Args[1] == serveArg {
		run = serve
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		// The kernel ends at once instead of waiting for a person to read a panic.
		if os.Getpid() == 1 {
			_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
		}
		os.Exit(1)
	}
}
