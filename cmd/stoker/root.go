package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stoker-project/stoker/fetcher/secrets"
)

// cli is what every command needs of the process it runs in.
type cli struct {
	// stdout and stderr pass on nothing that steers a terminal, and stdout no secret of
	// the set below: texts of a source stand in tables, too.
	stdout, stderr io.Writer
	// json is standard output for JSON, whose strings stay as they are.
	json io.Writer
	// exact is standard output for what programs read that is no JSON: a path, a
	// manifest. steering is standard error for a progress bar.
	exact, steering io.Writer
	// terminal says that standard error is one.
	terminal  bool
	verbose   bool
	logFormat string
	// started says that a command's own code began: errors before it are
	// wrong usage.
	started bool
	// command is the one that runs, set when its own code begins.
	command *cobra.Command
	// unbound ends what bound began; nil: nothing.
	unbound context.CancelFunc
	// volume watches the store's volume while the command runs.
	volume *volumeWatch
	// secrets holds every credential that the process has read. No text leaves the
	// process that has not passed it.
	secrets *secrets.Set
	// interrupted is what a command adds to the word "interrupted".
	interrupted string
}

func (c *cli) root() *cobra.Command {
	var showVersion bool
	cmd := &cobra.Command{
		Use:   "stoker",
		Short: "Keep GPU nodes warm: model weights in place, verified, and labelled",
		Long: `Stoker keeps the weights of your models on your GPU nodes, so that a new vLLM
replica starts at once instead of downloading first.

It pulls models into a store (a directory), holds every byte against what the
source vouches for, and shows a model only when all of it is right. As an agent
on a Kubernetes node it does so for a list of models, and labels the node with
those that are warm there and with how much GPU memory is free.

` + exitCodesText + `

Environment:
  STOKER_STORE     The default of --store.
  HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME
                   The Hub's address and your token, as the Hub's own client
                   reads them.
  STOKER_CA_BUNDLE A file of PEM certificates, or a folder of such files, that may
                   vouch for the servers of every source, beside the system's.
  NODE_NAME        The default of stoker agent --node-name.
  POD_UID          The pod that stoker agent runs in: what it asks for itself is
                   not counted as what other pods do.
  POD_NAMESPACE    The default of stoker sweep --namespace.
  KUBECONFIG       The kubeconfig of stoker status, explain, unlabel, sweep and agent.`,
		Example: `  stoker pull hf://Qwen/Qwen2.5-7B-Instruct     Bring a model here.
  stoker ls                                     See what is here.
  stoker fit qwen2.5-7b-instruct                Would it fit on these GPUs?`,
		SilenceErrors:    true,
		SilenceUsage:     true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) { c.begin(cmd) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !showVersion {
				return cmd.Help()
			}
			_, err := fmt.Fprintln(c.stdout, "stoker", version)
			return err
		},
	}
	// Not cobra's own: its template for the version would keep every method of
	// every type in the executable, which then is half as large again.
	cmd.Flags().BoolVar(&showVersion, "version", false, "print the version")
	cmd.SetOut(c.stdout)
	cmd.SetErr(c.stderr)
	cmd.SetFlagErrorFunc(flagError)
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.DisableSuggestions = true
	cmd.SetHelpCommand(helpCommand())
	flags := cmd.PersistentFlags()
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "log what is done, not only what goes wrong")
	flags.StringVar(&c.logFormat, "log-format", "text", "write the log on standard error in this `FORMAT`: text or json")
	cmd.AddCommand(
		c.pullCommand(), c.lsCommand(), c.verifyCommand(), c.rmCommand(), c.gcCommand(),
		c.waitCommand(), c.gpusCommand(), c.fitCommand(), c.agentCommand(), c.statusCommand(), c.explainCommand(), c.injectCommand(), c.populateCommand(),
		c.sweepCommand(), c.unlabelCommand(),
	)
	return cmd
}

// begin is called before a command's own code. What the watch reads of c must not
// change after it.
func (c *cli) begin(cmd *cobra.Command) {
	c.started, c.command = true, cmd
	if f := cmd.Flags().Lookup("progress"); f != nil && f.Value.String() == "json" && !cmd.Flags().Changed("log-format") {
		c.logFormat = "json" // each line of standard error is an object then
	}
	// What libraries print by themselves is for -v, and has no secrets either.
	slog.SetDefault(c.logger(slog.LevelWarn))
	c.bound(cmd)
	if f := cmd.Flags().Lookup("store"); f != nil && f.Value.String() != "" && f.Annotations[unwatched] == nil {
		c.volume.start(f.Value.String(), cmd.Context().Done(), c.tellVolume)
	}
}

// bounding marks a flag --timeout that ends the command's context, and with it the
// command where its volume hangs.
const bounding = "stoker.dev/bounding"

// bound has the command's context end when its --timeout is over.
func (c *cli) bound(cmd *cobra.Command) {
	f := cmd.Flags().Lookup("timeout")
	if f == nil || f.Annotations[bounding] == nil {
		return
	}
	if d, err := time.ParseDuration(f.Value.String()); err == nil && d > 0 {
		ctx, cancel := context.WithTimeout(cmd.Context(), d)
		c.unbound = cancel
		cmd.SetContext(ctx)
	}
}

// check joins everything that is wrong with how a command was called, so that
// the user hears of all of it at once.
func (c *cli) check(errs ...error) error {
	if c.logFormat != "text" && c.logFormat != "json" {
		errs = append(errs, fmt.Errorf("--log-format %q is unknown; use text or json", c.logFormat))
	}
	if err := errors.Join(errs...); err != nil {
		return usage(err)
	}
	return nil
}

// flagError words what pflag found: the flag, the value, and what it takes.
func flagError(_ *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	flag, want := bad.GetFlag(), ""
	switch flag.Value.Type() {
	case "int", "int64":
		want = "it takes a whole number"
	case "float64":
		want = "it takes a number, like 0.92"
	case "duration":
		want = "it takes a duration, like 90s, 30m or 2h"
	case "bool":
		want = "it takes true or false"
	default:
		want = errors.Unwrap(bad).Error()
	}
	return fmt.Errorf("--%s %q cannot be used; %s", flag.Name, bad.GetValue(), want)
}

// helpCommand is cobra's own, less that it calls an unknown topic a success.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		Long:  "Show the help of a command, as COMMAND --help does.",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usage(fmt.Errorf("unknown command %q for %q", strings.Join(args, " "), cmd.Root().Name()))
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
}

// logger writes to standard error: warnings, or with -v everything, without secrets.
func (c *cli) logger(level slog.Level) *slog.Logger {
	if c.verbose {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if c.logFormat == "json" {
		return slog.New(c.secrets.Handler(slog.NewJSONHandler(c.stderr, o)))
	}
	return slog.New(c.secrets.Handler(slog.NewTextHandler(c.stderr, o)))
}

// storeFlag adds --store, which STOKER_STORE gives a default.
func storeFlag(cmd *cobra.Command, dir *string) {
	def := os.Getenv("STOKER_STORE")
	if def == "" {
		def = "./models"
	}
	cmd.Flags().StringVar(dir, "store", def, "the store is in `DIR`; STOKER_STORE sets the default")
}

// exactArg is cobra.ExactArgs(1) with words that say what is missing.
func exactArg(name string) cobra.PositionalArgs {
	some := someArgs(name)
	return func(cmd *cobra.Command, args []string) error {
		if err := some(cmd, args); err != nil {
			return err
		}
		if len(args) > 1 {
			return fmt.Errorf("%s takes one argument, but %q came after it", cmd.CommandPath(), args[1])
		}
		return nil
	}
}

func someArgs(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s needs %s", cmd.CommandPath(), name)
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, but got %q", cmd.CommandPath(), args[0])
	}
	return nil
}
