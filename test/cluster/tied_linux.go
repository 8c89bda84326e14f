package cluster

import "syscall"

// tied makes a child that gets deathSignal when the thread that started it ends, and that stands in a process group of
// its own: Ctrl-C on a terminal goes to the whole foreground group, and the components are to be stopped in order by
// Stop, not all at once by the terminal.
func tied(deathSignal syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: deathSignal}
}
