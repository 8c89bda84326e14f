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
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/printable"
)

// version is what --version prints; the linker sets it
// (-ldflags "-X main.version=...").
var version = "dev"

// init keeps the process's main thread for the main goroutine, which only waits.
// The kernel offers a signal to the main thread first, and where that sleeps in a
// call into a hung volume, the signal stays there: Ctrl-C would reach nobody.
func init() { runtime.LockOSThread() } //nolint:gochecknoinits // main itself may begin on another thread

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the work in good order, or the process if the store's
	// volume hangs; a second one ends the process whatever it is doing.
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
	out, errs := printable.NewWriter(stdout), printable.NewWriter(stderr)
	hidden := secrets.New()
	c := &cli{
		stdout: hidden.Writer(out, false), json: out, exact: out.Exact(), stderr: errs, steering: errs.Exact(), terminal: isTerminal(stderr),
		volume: newVolumeWatch(), secrets: hidden,
	}
	c.secrets.AddEnvironment()
	executed, err := c.execute(ctx, args)
	var hung *hungError
	if errors.As(err, &hung) {
		// Nothing else of the command may be looked at: it has not ended.
		code := exitInterrupted
		if ctx.Err() == nil { // its --timeout is over
			code = exitFailed
		}
		c.complain(err, code, executed.CommandPath())
		return code
	}
	if err != nil && !c.started {
		// cobra refused the command line before any command ran.
		err = usage(err)
	}
	if lost := out.Close(); lost != nil && err == nil {
		err = fmt.Errorf("write standard output: %w", lost) // by what does not look, such as --help
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

// hungError is a command that was interrupted, or timed out, and cannot end, because
// its volume does not answer.
type hungError struct {
	volume   string
	timedOut bool
}

func (h *hungError) Error() string {
	why := "interrupted"
	if h.timedOut {
		why = "timed out"
	}
	return why + "; " + h.volume + ", does not answer"
}

// execute runs the command to its end; a hungError says that it has none.
func (c *cli) execute(ctx context.Context, args []string) (*cobra.Command, error) {
	cmd := c.root() //nolint:contextcheck // cobra hands ctx to the commands
	cmd.SetArgs(args)
	type end struct {
		executed *cobra.Command
		err      error
	}
	ended := make(chan end, 1)
	// Left behind if it hangs in the kernel: main ends the process, which is all
	// that ends a call into a hard mount.
	go func() {
		executed, err := cmd.ExecuteContextC(ctx)
		if c.unbound != nil {
			c.unbound()
		}
		ended <- end{executed, c.explain(err)}
	}()
	select {
	case e := <-ended:
		c.volume.stop()
		return e.executed, e.err
	case volume := <-c.volume.givenUp:
		return c.command, &hungError{volume: volume, timedOut: ctx.Err() == nil}
	}
}

// complain says what went wrong: a sentence a line, or with --log-format json
// one object, so that whoever reads the log by lines can read all of it.
func (c *cli) complain(err error, code int, command string) {
	text := err.Error()
	if hint := advice(err); hint != "" {
		text += "; " + hint
	}
	text = c.secrets.Scrub(text)
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
