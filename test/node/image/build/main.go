// Command build builds Stoker's image with buildah, prints its sizes, and fails where it is not as promised: too large,
// or with a program in it beside stoker.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/stoker-project/stoker/test/node/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, log io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	builder := image.Builder{Log: log}
	var source image.Source
	var out, program string
	var local bool
	flags.StringVar(&builder.Dir, "dir", "", "directory of buildah's storage, kept for the next time")
	flags.StringVar(&source.Repository, "repository", ".", "root of the repository")
	flags.StringVar(&source.Version, "version", "dev", "what stoker --version will say")
	flags.StringVar(&source.Name, "name", "localhost/stoker:dev", "name of the image")
	flags.BoolVar(&local, "local-bases", false, "make the base images from Debian's packages instead of pulling the Dockerfile's")
	flags.StringVar(&out, "out", "", "new directory for the image as an OCI layout; OUT.tar is the same in one file")
	flags.StringVar(&program, "program", "", "build an image of nothing but this static program instead")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if builder.Dir == "" || out == "" {
		return errors.New("build the image: -dir and -out are needed")
	}
	if err := os.MkdirAll(builder.Dir, 0o755); err != nil {
		return err
	}
	if program != "" {
		if err := builder.BuildProgram(ctx, program, source.Name); err != nil {
			return err
		}
		return builder.Export(ctx, source.Name, out)
	}
	if local {
		if err := builder.BuildBases(ctx, filepath.Join(source.Repository, "test", "node", "image", "bases")); err != nil {
			return err
		}
		source.Builder, source.Base = image.LocalBuilder, image.LocalBase
	}
	if err := builder.Build(ctx, source); err != nil {
		return err
	}
	if err := builder.Export(ctx, source.Name, out); err != nil {
		return err
	}
	contents, err := image.Inspect(out)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	fmt.Fprintf(stdout, "binary: %.1f MiB (at most %d)\n", float64(contents.BinarySize())/mib, image.MaxBinary/mib)
	fmt.Fprintf(stdout, "image:  %.1f MiB compressed (at most %d), user %s\n", float64(contents.Compressed)/mib, image.MaxCompressed/mib, contents.User)
	return contents.Check()
}
