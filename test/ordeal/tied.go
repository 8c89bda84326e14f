package ordeal

import (
	"os/exec"
	"runtime"
)

// RunTied runs a command that dies with this process, and calls started when it
// runs. Linux sends the parent-death signal when the thread that forked ends,
// so the thread is kept until the command has ended.
func RunTied(cmd *exec.Cmd, started func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			started()
			err = cmd.Wait()
		}
		done <- err
	}()
	return <-done
}
