// Command build puts the control plane's executable into the user's cache directory, so that tests and the demo find
// it there, and prints its path. The first time takes about 8 minutes on two cores; later it does nothing.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/stoker-project/stoker/test/cluster"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path, err := cluster.Binary(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	_, _ = fmt.Fprintln(os.Stdout, path)
	return 0
}
