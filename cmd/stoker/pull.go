package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stoker-project/stoker/fetcher"
)

type pullFlags struct {
	name, store, maxRate, progress, output string
	fileFormat                             string
	also, include, exclude                 []string
	access                                 accessFlags
	jobs                                   int
	timeout                                time.Duration
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
		Long: `Pull one model into a store, and print the directory that vllm serve takes.
Every byte is held against what the source vouches for, and nothing is visible
before all of it is right. An interrupted pull goes on where it was. What is in
the store and right already is not downloaded again.

What fails for a moment is tried again. After six tries without progress, or 10
minutes, the pull ends and says how often it tried; where the source asks to wait
longer than that, or than --timeout, it ends at once and says for how long.

SOURCE is one of
  hf://[ORG/]NAME[@REVISION]  a Hub repository; REVISION is a branch, tag or commit
  s3://BUCKET[/PREFIX]        what is below PREFIX/ in an S3 bucket, or one object
  gs://BUCKET[/PREFIX]        the same in a Google Cloud Storage bucket
  file:///DIR                 a directory of this machine; symlinks in it may end in
                              it, in the blobs of the Hub's cache if it is a snapshot
                              there, and below DIRs given with --follow-links

By default, what vLLM would load is pulled: other formats and precisions of the
same weights are left out, and so is what belongs to a training or is for people;
a model that lacks weights which its index names is refused. --also adds to that,
--exclude takes away from it, and --include replaces it. Patterns match as in the
Hub's own client: * crosses slashes, and case matters.

Where the root holds consolidated*.safetensors, vLLM loads those and no other
weights, and so only they are pulled; --file-format hf pulls the others instead,
for a vLLM that is started with --load-format hf and --config-format hf. Of GGUF
files, --include names one, and configuration and tokenizer come along.

Tokens, credentials, regions and endpoints are found as in each source's own
tools: HF_TOKEN and HF_ENDPOINT; AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3
and the rest of AWS's chain; GOOGLE_APPLICATION_CREDENTIALS and Google's. So are
certificates of authorities: SSL_CERT_FILE, for the Hub REQUESTS_CA_BUNDLE too,
for S3 AWS_CA_BUNDLE and ca_bundle in AWS's configuration file. Proxies are those
of HTTPS_PROXY, HTTP_PROXY and ALL_PROXY (http, https, socks5), less NO_PROXY.

Standard output has the path only, or with -o json one object. Progress and log
go to standard error; with --progress json each line there is an object.

` + exitCodesText,
		Example: `  stoker pull hf://Qwen/Qwen2.5-7B-Instruct
  stoker pull hf://Qwen/Qwen2.5-7B-Instruct@main --name qwen --store /var/lib/stoker
  stoker pull s3://models/team/llama --store /var/lib/stoker
  stoker pull hf://TheBloke/Llama-2-7B-GGUF --include '*Q4_K_M*' --max-rate 200MB
  stoker pull hf://openai/gpt-oss-20b --also original/ --exclude '*.md'
  vllm serve "$(stoker pull hf://Qwen/Qwen2.5-7B-Instruct)"`,
		Args: exactArg("a SOURCE, like hf://ORG/NAME"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.pull(cmd.Context(), cmd.Flags(), args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "call the model `NAME` in the store (default: the last part of SOURCE; of one object with weights, its folder's)")
	storeFlag(cmd, &f.store)
	flags.StringVar(&f.fileFormat, "file-format", fetcher.FormatAuto, "of weights in several formats, take `FORMAT`: auto (as vLLM does), mistral or hf")
	flags.StringArrayVar(&f.also, "also", nil, "take files that match `PATTERN`, too; may be repeated")
	flags.StringArrayVar(&f.include, "include", nil, "take files that match `PATTERN` instead of the default choice; may be repeated")
	flags.StringArrayVar(&f.exclude, "exclude", nil, "leave out files that match `PATTERN`; may be repeated")
	f.access.add(flags)
	flags.IntVar(&f.jobs, "jobs", 32, "use `N` connections at most; fewer are used where more do not help")
	flags.StringVar(&f.maxRate, "max-rate", "", "take `RATE` bytes per second at most, like 200MB or 1GiB (default: unlimited)")
	flags.DurationVar(&f.timeout, "timeout", 0, "give up after this `DURATION`; what was transferred stays for the next try (default: none)")
	flags.Lookup("timeout").Annotations = map[string][]string{bounding: {}}
	flags.StringVar(&f.progress, "progress", "auto", "show progress in this `FORM`: auto, bar, plain, json or none; auto is a bar on a terminal and plain lines elsewhere")
	outputFlag(cmd, &f.output)
	return cmd
}

func (c *cli) pull(ctx context.Context, flags *pflag.FlagSet, source string, f pullFlags) error {
	src, err := fetcher.ParseSource(source)
	if err == nil && !flags.Changed("name") {
		if f.name, err = src.DeriveName(); err != nil {
			err = fmt.Errorf("%w with --name", err)
		}
	} else if nameErr := fetcher.CheckName(f.name); flags.Changed("name") && nameErr != nil {
		err = errors.Join(err, fmt.Errorf("--name: %w", nameErr))
	}
	rate, rateErr := parseRate(f.maxRate)
	if rateErr != nil {
		rateErr = fmt.Errorf("--max-rate: %w", rateErr)
	}
	var jobsErr error
	if f.jobs < 1 {
		jobsErr = fmt.Errorf("--jobs %d is too few; it takes at least one connection", f.jobs)
	}
	var timeoutErr error
	if flags.Changed("timeout") && f.timeout <= 0 {
		timeoutErr = fmt.Errorf("--timeout %s is not positive; it takes a duration like 30m", f.timeout)
	}
	access, accessErr := f.access.access(src.Scheme)
	formatErr := fetcher.CheckFileFormat(f.fileFormat)
	if formatErr != nil {
		formatErr = fmt.Errorf("--file-format: %w", formatErr)
	}
	show, progressErr := c.newProgress(f.progress)
	if err := c.check(err, accessErr, formatErr, jobsErr, timeoutErr, rateErr, progressErr, checkOutput(f.output), checkStore(f.store)); err != nil {
		return err
	}
	if _, err := driverFor(src, access, c.secrets); err != nil { // before a store is made for nothing
		return err
	}
	logger := c.logger(slog.LevelWarn)
	s, err := openToPull(f.store, logger)
	if err != nil {
		return err
	}
	c.interrupted = "; what was transferred stays for the next try"
	logger.DebugContext(ctx, "pulling", "source", src.String(), "name", f.name, "store", s.Dir(), "jobs", f.jobs,
		"max_rate", rate, "file_format", f.fileFormat, "also", f.also, "include", f.include, "exclude", f.exclude)
	puller := fetcher.New(fetcher.Options{Store: s, Secrets: c.secrets, Drivers: drivers(c.secrets), Logger: logger, Jobs: f.jobs, MaxRate: rate})
	res, err := puller.Pull(ctx, fetcher.Request{
		Name: f.name, Source: src, FileFormat: f.fileFormat, Also: f.also, Include: f.include, Exclude: f.exclude,
		Progress: show.update, AcceptOlder: true, Access: access,
	})
	show.finish(err == nil)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return fmt.Errorf("pull %s: not done within %s; pull again, which goes on where it was, or give it longer with --timeout", src, f.timeout)
	}
	if err != nil {
		return err
	}
	logger.DebugContext(ctx, "published", "name", res.Name, "revision", res.Revision, "path", res.Path,
		"bytes", res.Bytes, "downloaded_bytes", res.DownloadedBytes, "took", res.Duration)
	if f.output == "json" {
		return printJSON(c.json, pullOutput{
			Name: res.Name, Source: res.Source, Revision: res.Revision, Path: res.Path,
			Bytes: res.Bytes, DownloadedBytes: res.DownloadedBytes, Seconds: res.Duration.Seconds(),
		})
	}
	_, err = fmt.Fprintln(c.exact, res.Path)
	return err
}
