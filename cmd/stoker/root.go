package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
)

// cli is what every command needs of the process it runs in.
type cli struct {
	stdout, stderr io.Writer
	verbose        bool
	logFormat      string
	// started says that a command's own code began: errors before it are
	// wrong usage.
	started bool
}

func (c *cli) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stoker",
		Short: "Keep GPU nodes warm: model weights in place, verified, and labelled",
		Long: `Stoker pulls model weights into a store, verifies every byte, and as an agent
labels its Kubernetes node with the models that are warm there.

Exit codes:
  0    done
  1    failed or timed out; trying again may help
  2    wrong usage or configuration, unknown names and flags
  3    the source refuses: missing, gated, no access, no such revision
  4    bytes that do not verify, or file names that no source may give
  5    no room on the disk
  130  interrupted

Environment:
  STOKER_STORE                              default of --store
  HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT      as the Hub's own client reads them`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(_ *cobra.Command, _ []string) error {
			if c.logFormat != "text" && c.logFormat != "json" {
				return fmt.Errorf("--log-format %q is unknown; use text or json", c.logFormat)
			}
			c.started = true
			return nil
		},
	}
	cmd.SetOut(c.stdout)
	cmd.SetErr(c.stderr)
	cmd.SetVersionTemplate("stoker {{.Version}}\n")
	cmd.CompletionOptions.HiddenDefaultCmd = true
	flags := cmd.PersistentFlags()
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "log what is done, too, not only what goes wrong")
	flags.StringVar(&c.logFormat, "log-format", "text", "format of the log on standard error: text or json")
	cmd.AddCommand(
		c.pullCommand(), c.lsCommand(), c.verifyCommand(), c.rmCommand(), c.gcCommand(),
		c.waitCommand(), c.gpusCommand(), c.agentCommand(),
	)
	return cmd
}

// logger writes to standard error: warnings, or with -v everything.
func (c *cli) logger(level slog.Level) *slog.Logger {
	if c.verbose {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(c.stderr, o))
	}
	return slog.New(slog.NewTextHandler(c.stderr, o))
}

// storeFlag adds --store, which STOKER_STORE gives a default.
func storeFlag(cmd *cobra.Command, dir *string) {
	def := os.Getenv("STOKER_STORE")
	if def == "" {
		def = "./models"
	}
	cmd.Flags().StringVar(dir, "store", def, "the store's directory; default from STOKER_STORE")
}

// exactArgs is cobra.ExactArgs with words that say what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s needs %s", cmd.CommandPath(), names[len(args)])
		}
		if len(args) > len(names) {
			return fmt.Errorf("%s takes %d argument(s), but %q came after them", cmd.CommandPath(), len(names), args[len(names)])
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
