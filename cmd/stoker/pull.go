package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

type pullFlags struct {
	name, store, maxRate, progress, output string
	include, exclude                       []string
	jobs                                   int
}

// pullOutput is `stoker pull -o json`.
type pullOutput struct {
	Name            string  `json:"name"`
	Source          string  `json:"source"`
	Revision        string  `json:"revision"`
	Path            string  `json:"path"`
	Bytes           int64   `json:"bytes"`
	DownloadedBytes int64   `json:"downloadedBytes"`
	Seconds         float64 `json:"seconds"`
}

func (c *cli) pullCommand() *cobra.Command {
	var f pullFlags
	cmd := &cobra.Command{
		Use:   "pull SOURCE",
		Short: "Pull one model into a store, verified and published; prints the path that vLLM takes",
		Long: `Pull one model into a store. Every byte is held against what the source vouches
for, and nothing is visible before all of it is right. An interrupted pull goes
on where it was. What is already in the store and right is not downloaded again.

SOURCE is one of
  hf://ORG/NAME[@REVISION]   a Hub repository, by branch, tag or commit
  file:///DIR                a directory

Without --include and --exclude, what vLLM would load is pulled: other formats
of the same weights are left out. Patterns match as the Hub's own client does:
* crosses slashes, case matters.`,
		Example: `  stoker pull hf://Qwen/Qwen2.5-7B-Instruct
  stoker pull hf://Qwen/Qwen2.5-7B-Instruct@main --name qwen --store /var/lib/stoker
  stoker pull hf://TheBloke/Llama-2-7B-GGUF --include '*Q4_K_M.gguf' --max-rate 200MB`,
		Args: exactArgs("a SOURCE, like hf://ORG/NAME"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.pull(cmd, args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "the model's name in the store; default: from the source")
	storeFlag(cmd, &f.store)
	flags.StringArrayVar(&f.include, "include", nil, "take only files that match; may be repeated")
	flags.StringArrayVar(&f.exclude, "exclude", nil, "leave out files that match; may be repeated")
	flags.IntVar(&f.jobs, "jobs", 8, "connections at most")
	flags.StringVar(&f.maxRate, "max-rate", "", "bytes per second at most, like 200MB or 1GiB; default: unlimited")
	flags.StringVar(&f.progress, "progress", "auto", "auto, bar, plain, json or none; auto is a bar on a terminal, plain lines elsewhere")
	outputFlag(cmd, &f.output)
	return cmd
}

func (c *cli) pull(cmd *cobra.Command, source string, f pullFlags) error {
	src, err := fetcher.ParseSource(source)
	if err != nil {
		return usage(err)
	}
	if f.name == "" {
		if f.name, err = src.DeriveName(); err != nil {
			return usage(fmt.Errorf("%w with --name", err))
		}
	}
	rate, rateErr := parseRate(f.maxRate)
	if rateErr != nil {
		rateErr = fmt.Errorf("--max-rate: %w", rateErr)
	}
	var jobsErr error
	if f.jobs < 1 {
		jobsErr = fmt.Errorf("--jobs %d: at least one connection is needed", f.jobs)
	}
	var nameErr error
	if err := fetcher.CheckName(f.name); err != nil {
		nameErr = fmt.Errorf("--name: %w", err)
	}
	show, progressErr := newProgress(f.progress, c.stderr)
	if err := errors.Join(nameErr, rateErr, jobsErr, progressErr); err != nil {
		return usage(err)
	}
	if err := checkOutput(f.output); err != nil {
		return err
	}
	s, err := store.Open(f.store)
	if err != nil {
		return err
	}
	logger := c.logger(slog.LevelWarn)
	puller := fetcher.New(fetcher.Options{Store: s, Drivers: drivers(), Logger: logger, Jobs: f.jobs, MaxRate: rate})
	res, err := puller.Pull(cmd.Context(), fetcher.Request{
		Name: f.name, Source: src, Include: f.include, Exclude: f.exclude, Progress: show.update,
	})
	show.finish(err == nil)
	if err != nil {
		return err
	}
	if f.output == "json" {
		return printJSON(c.stdout, pullOutput{
			Name: res.Name, Source: res.Source, Revision: res.Revision, Path: res.Path,
			Bytes: res.Bytes, DownloadedBytes: res.DownloadedBytes, Seconds: res.Duration.Seconds(),
		})
	}
	_, err = fmt.Fprintln(c.stdout, res.Path)
	return err
}
