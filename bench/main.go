//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once; what it started dies with it.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "bench: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	stoker, floor              string
	curl, aria2c, python       string
	versitygw, s5cmd, rclone   string
	dir, readme                string
	parts                      string
	size, memorySize, linkSize size
	rounds, linkRounds         int
	seed                       uint64
}

// parts in the order in which they run.
func allParts() []string { return []string{"hub", "s3", "memory", "link"} }

func (o *options) parse(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	for _, f := range []struct {
		into              *string
		name, value, says string
	}{
		{&o.stoker, "stoker", "bin/stoker", "the binary to measure"},
		{&o.floor, "floor", "bin/floor", "the floor's binary"},
		{&o.curl, "curl", "curl", "curl"},
		{&o.aria2c, "aria2c", "aria2c", "aria2c"},
		{&o.python, "python", "", "a Python that has huggingface_hub"},
		{&o.versitygw, "versitygw", "", "the S3 server"},
		{&o.s5cmd, "s5cmd", "", "s5cmd"},
		{&o.rclone, "rclone", "", "rclone"},
		{&o.dir, "dir", os.TempDir(), "work below this directory; all that is written there is removed"},
		{&o.readme, "readme", "", "write the tables into this file, if the run is a full one"},
		{&o.parts, "parts", strings.Join(allParts(), ","), "what to run"},
	} {
		flags.StringVar(f.into, f.name, f.value, f.says)
	}
	o.size, o.memorySize, o.linkSize = fullSize, 8<<30, 64<<20
	flags.Var(&o.size, "size", "size of the model")
	flags.Var(&o.memorySize, "memory-size", "size of the model whose peak memory is looked at")
	flags.Var(&o.linkSize, "link-size", "size of the model over a slow link")
	flags.IntVar(&o.rounds, "rounds", fullRounds, "rounds after the warm-up")
	flags.IntVar(&o.linkRounds, "link-rounds", 3, "rounds over each slow link")
	flags.Uint64Var(&o.seed, "seed", 1, "of the order in each round and of the losses")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for part := range strings.SplitSeq(o.parts, ",") {
		if !slices.Contains(allParts(), part) {
			return fmt.Errorf("no part %q: want some of %s", part, strings.Join(allParts(), ","))
		}
	}
	if o.rounds < 1 || o.linkRounds < 1 {
		return fmt.Errorf("rounds %d and link-rounds %d must be positive", o.rounds, o.linkRounds)
	}
	return nil
}

// A full run is what bench/README.md shows.
const (
	fullSize   = 2 << 30
	fullRounds = 7
)

func (o *options) full() bool { return o.size >= fullSize && o.rounds >= fullRounds }

// bench is one run.
type bench struct {
	options
	out  io.Writer
	work string
	// missing says of each peer that is not here how to get it.
	missing []string
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	b := &bench{out: out}
	if len(args) > 0 && args[0] == serveCommand {
		return serve(ctx, args[1:], out)
	}
	if err := b.parse(args); err != nil {
		return err
	}
	if err := b.openWork(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	parts := map[string]func(context.Context) (string, error){"hub": b.hub, "s3": b.s3, "memory": b.memory, "link": b.link}
	for _, name := range allParts() {
		if !slices.Contains(strings.Split(b.parts, ","), name) {
			continue
		}
		b.say("## %s", name)
		table, err := parts[name](ctx)
		var skip skipError
		if errors.As(err, &skip) {
			b.say("SKIPPED: %s: %s", name, skip)
			continue
		}
		if err != nil {
			return fmt.Errorf("measure %s: %w", name, err)
		}
		b.say("\n%s", table)
		if err := b.publish(name, table); err != nil {
			return err
		}
	}
	return nil
}

// skipError is why a part cannot run here.
type skipError string

func (s skipError) Error() string { return string(s) }

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...)
}
