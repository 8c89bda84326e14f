// Command stoker keeps GPU nodes warm: it pulls model weights into a store,
// verified, and as an agent labels its node with what is there. See the README
// and `stoker --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/stoker-project/stoker/gpu"
)

// version is what --version prints; the linker sets it
// (-ldflags "-X main.version=...").
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the work in good order, a second one the process:
	// a read from a volume that hangs can be ended in no other way.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program less its exit.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == readGPUsArgument {
		if err := gpu.AnswerParent(ctx, stdout); err != nil {
			fmt.Fprintf(stderr, "stoker: %s\n", err)
			return exitFailed
		}
		return exitOK
	}
	c := &cli{stdout: stdout, stderr: stderr}
	cmd := c.root() //nolint:contextcheck // cobra hands ctx to the commands
	cmd.SetArgs(args)
	executed, err := cmd.ExecuteContextC(ctx)
	if err != nil && !c.started {
		// cobra refused the command line before any command ran.
		err = usage(err)
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		err = errors.New("interrupted" + c.interrupted)
	}
	if err != nil {
		c.complain(err, code, executed.CommandPath())
	}
	return code
}

// complain says what went wrong: a sentence a line, or with --log-format json
// one object, so that whoever reads the log by lines can read all of it.
func (c *cli) complain(err error, code int, command string) {
	text := err.Error()
	if hint := advice(err); hint != "" {
		text += "; " + hint
	}
	if c.logFormat == "json" {
		c.logger(slog.LevelError).Error("command ended", "command", command, "exit_code", code, "error", text)
		return
	}
	for line := range strings.Lines(text) {
		fmt.Fprintf(c.stderr, "stoker: %s\n", strings.TrimSpace(line))
	}
	if code == exitUsage {
		fmt.Fprintf(c.stderr, "Run '%s --help' for usage.\n", command)
	}
}
