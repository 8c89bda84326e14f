package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/populate"
	"github.com/stoker-project/stoker/fetcher"
)

type populateFlags struct {
	config, store, output string
	prune                 bool
}

// populateOutput is `stoker populate -o json`.
type populateOutput struct {
	Models     []populatedModel `json:"models"`
	Removed    []string         `json:"removed"`
	FreedBytes int64            `json:"freedBytes"`
}

type populatedModel struct {
	pullOutput

	Error string `json:"error,omitempty"`
}

func (c *cli) populateCommand() *cobra.Command {
	var f populateFlags
	cmd := &cobra.Command{
		Use:   "populate --config FILE",
		Short: "Pull every model of a list into a store, for a volume that nodes then mount read-only",
		Long: `Pull every model of a list into a store, and end. It is for a volume that all
nodes mount read-only afterwards: a snapshot or a clone of this one, or the volume
itself when nobody writes it any more. The chart's Job (populate.enabled) runs it.

FILE is the agent's configuration: its list is pulled whatever nodes the entries
are for, pull.concurrentModels at a time, the highest priority first. A model that
fails keeps no other from being pulled. What is there and right is not downloaded
again, so a run that was interrupted goes on where it was.

With --prune, when every model is there, what the list does not have is removed,
and superseded revisions are: nobody may read the store meanwhile.

` + exitCodesText + `
Where models failed for several reasons, it is 1 if trying again may help one.`,
		Example: `  stoker populate --config /etc/stoker/config.yaml --store /models
  stoker populate --config list.yaml --store /mnt/models --prune -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.populate(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "read the model list from `FILE` (required); Secrets that it names are in the folder credentials beside it")
	storeFlag(cmd, &f.store)
	flags.BoolVar(&f.prune, "prune", false, "remove what the list does not have when all of it is there")
	outputFlag(cmd, &f.output)
	return cmd
}

func (c *cli) populate(ctx context.Context, f populateFlags) error {
	if err := c.check(need("--config", f.config, "name the file with the model list"), checkOutput(f.output), checkStore(f.store)); err != nil {
		return err
	}
	data, err := agent.ReadConfigFile(f.config)
	if err != nil {
		return usage(fmt.Errorf("read the configuration: %w; name the file with the model list", err))
	}
	cfg, err := agent.ParseConfig(data)
	if err != nil {
		return usage(fmt.Errorf("read %s: %w", f.config, err))
	}
	logger := c.logger(slog.LevelWarn)
	s, err := openToPull(f.store, logger)
	if err != nil {
		return err
	}
	c.interrupted = "; what was transferred stays for the next try"
	show := &manyProgress{out: c.stderr, of: map[string]*plainProgress{}}
	report, err := populate.Run(ctx, populate.Options{
		Config: cfg, CredentialsDir: agent.DefaultCredentials(f.config), Store: s, Prune: f.prune, Logger: logger, Progress: show.update,
		Puller: fetcher.New(fetcher.Options{Store: s, Secrets: c.secrets, Drivers: drivers(c.secrets), Logger: logger, Jobs: cfg.Pull.Jobs, MaxRate: cfg.Pull.MaxRate}),
	})
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(worst(ctx, report, err), c.printPopulated(report, f.output))
}

// worst is the error of the whole: with several, one that trying again may help
// decides about the exit code.
func worst(ctx context.Context, report populate.Report, err error) error {
	failed := 0
	again := false
	for _, out := range report.Outcomes {
		if out.Err != nil {
			failed++
			again = again || exitCode(ctx, out.Err) == exitFailed
		}
	}
	switch {
	case err == nil || ctx.Err() != nil || failed < 2 || !again:
		return err
	}
	return fmt.Errorf("%d of %d models failed:\n%s", failed, len(report.Outcomes), err) //nolint:errorlint // their codes are not to count
}

func (c *cli) printPopulated(report populate.Report, output string) error {
	out := populateOutput{Models: []populatedModel{}, Removed: append([]string{}, report.Removed...), FreedBytes: report.Freed}
	rows := [][]string{{"MODEL", "SIZE", "DOWNLOADED", "REVISION", "PATH"}}
	for _, o := range report.Outcomes {
		m := populatedModel{pullOutput: pullOutput{
			Name: o.Model.Name, Source: o.Model.Source.String(), Revision: o.Result.Revision, Path: o.Result.Path,
			Bytes: o.Result.Bytes, DownloadedBytes: o.Result.DownloadedBytes, Seconds: o.Result.Duration.Seconds(),
		}}
		row := []string{m.Name, humanBytes(m.Bytes), humanBytes(m.DownloadedBytes), m.Revision, m.Path}
		if o.Err != nil {
			m.Error = c.secrets.Scrub(o.Err.Error())
			row = []string{m.Name, "", "", "", "failed"}
		}
		out.Models, rows = append(out.Models, m), append(rows, row)
	}
	if output == "json" {
		return printJSON(c.json, out)
	}
	if err := printTable(c.stdout, rows); err != nil || len(report.Removed) == 0 {
		return err
	}
	_, err := fmt.Fprintf(c.stdout, "removed %s that the list does not have, %s\n", count(len(report.Removed), "model or revision"), humanBytes(report.Freed))
	return err
}

// manyProgress writes lines for several models at once.
type manyProgress struct {
	out io.Writer

	mu sync.Mutex
	of map[string]*plainProgress
}

func (p *manyProgress) update(name string, now fetcher.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	show := p.of[name]
	if show == nil {
		show = &plainProgress{w: &prefixed{p.out, name + ": "}, rate: newRate()}
		p.of[name] = show
	}
	show.update(now)
}

// prefixed puts a text before each line; each write is one.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p *prefixed) Write(line []byte) (int, error) {
	_, err := p.w.Write(bytes.Join([][]byte{[]byte(p.prefix), line}, nil))
	return len(line), err
}
