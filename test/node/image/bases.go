package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// BuildBases makes LocalBuilder and LocalBase in the storage, unless they are there: about 2 minutes on two cores, of
// which most is debootstrap's. source is the folder test/node/image/bases.
func (b Builder) BuildBases(ctx context.Context, source string) error {
	if b.buildah(ctx, "inspect", "--type", "image", LocalBuilder) == nil && b.buildah(ctx, "inspect", "--type", "image", LocalBase) == nil {
		return nil
	}
	work, err := os.MkdirTemp(b.Dir, "bases-*")
	if err != nil {
		return fmt.Errorf("build the local base images: %w", err)
	}
	err = b.buildBases(ctx, source, work)
	if err = errors.Join(err, os.RemoveAll(work)); err != nil {
		return fmt.Errorf("build the local base images: %w", err)
	}
	return nil
}

func (b Builder) buildBases(ctx context.Context, source, work string) error {
	root := filepath.Join(work, "root")
	err := b.run(ctx, "debootstrap", "--variant=minbase", "--include=gcc,libc6-dev,ca-certificates", "bookworm", root)
	if err != nil {
		return err
	}
	if err := b.run(ctx, "tar", "-C", root, "--exclude=./dev/*", "--exclude=./var/cache/apt/archives/*", "-cf", filepath.Join(work, "rootfs.tar"), "."); err != nil {
		return err
	}
	for _, stage := range []struct{ target, image string }{{"builder", LocalBuilder}, {"base", LocalBase}} {
		err := b.buildah(ctx, "bud", "--isolation", "chroot", "--layers", "--file", filepath.Join(source, "Dockerfile"),
			"--target", stage.target, "--tag", stage.image, work)
		if err != nil {
			return err
		}
	}
	return nil
}
