// Command stoker keeps GPU nodes warm: it pulls model weights into a store,
// verified, and as an agent labels its node with what is there. See the README
// and `stoker --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is what --version prints; the linker sets it.
var version = "dev" //nolint:gochecknoglobals // -ldflags "-X main.version=..." needs a variable

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program less its exit.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &cli{stdout: stdout, stderr: stderr}
	cmd := c.root()
	cmd.SetArgs(args)
	executed, err := cmd.ExecuteContextC(ctx)
	if err != nil && !c.started {
		// cobra refused the command line before any command ran.
		err = usage(err)
	}
	code := exitCode(ctx, err)
	switch {
	case err == nil:
	case code == exitInterrupted:
		fmt.Fprintf(stderr, "stoker: interrupted; what was transferred stays for the next try\n")
	default:
		fmt.Fprintf(stderr, "stoker: %v\n", err)
		var u *usageError
		if errors.As(err, &u) {
			fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", executed.CommandPath())
		}
	}
	return code
}
